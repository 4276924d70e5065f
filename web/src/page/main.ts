document.querySelector('#page')!.textContent = 'segzoo'
