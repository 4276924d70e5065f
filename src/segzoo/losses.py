"""Earlier path of the loss, which train.yaml files of runs may name."""

from segzoo.training.losses import DiceCELoss as DiceCELoss
