/** Elements, made in a line. */

type Attributes = Record<string, string | number | boolean>
type Child = Node | string

/** Make an element; an attribute that is false is left out. */
export function make<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? '' : String(value))
  }
  element.append(...children)
  return element
}

/** Make a button that does something. */
export function button(label: Child, act: () => void, attributes: Attributes = {}): HTMLButtonElement {
  const made = make('button', { type: 'button', ...attributes }, label)
  made.addEventListener('click', act)
  return made
}

/** Make a button that has the person choose files. */
export function fileButton(
  label: Child,
  accepted: string,
  several: boolean,
  given: (files: File[]) => void,
  attributes: Attributes = {},
): HTMLElement {
  const input = make('input', { type: 'file', accept: accepted, multiple: several, hidden: true })
  input.addEventListener('change', () => {
    given([...(input.files ?? [])])
    input.value = '' // the same file again is a change, too
  })
  return make(
    'span',
    { class: 'chooser' },
    button(label, () => input.click(), attributes),
    input,
  )
}

/** Make a section with a heading, which names it. */
export function section(name: string, heading: string, ...children: Child[]): HTMLElement {
  const id = `${name}-heading`
  return make('section', { class: `panel ${name}`, 'aria-labelledby': id }, make('h2', { id }, heading), ...children)
}

/** Make an icon, which says nothing that is not also said in words. */
export function icon(path: string): SVGElement {
  const space = 'http://www.w3.org/2000/svg'
  const drawing = document.createElementNS(space, 'svg')
  drawing.setAttribute('viewBox', '0 0 24 24')
  drawing.setAttribute('aria-hidden', 'true')
  drawing.setAttribute('class', 'icon')
  const line = document.createElementNS(space, 'path')
  line.setAttribute('d', path)
  drawing.append(line)
  return drawing
}
