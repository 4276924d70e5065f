"""Public door to volumes in memory and on disk."""

from segzoo.imaging.volumes import Volume as Volume
from segzoo.imaging.volumes import read_volume as read_volume
