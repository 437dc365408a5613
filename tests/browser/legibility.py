"""The legibility of a page: nothing overflows or is cut off, and every text has enough contrast.

Contrast is WCAG 2's ratio of relative luminances, at least 4.5 for text and 3 for large text; disabled controls are exempt.
Source: https://www.w3.org/TR/WCAG22/#contrast-minimum
"""

from itertools import pairwise
from typing import Any

from tests.browser.jupyterlab import Notebook

THEMES = ("JupyterLab Light", "JupyterLab Dark")

# Cells are laid out when they become visible, so each is scrolled into view. `look` returns the faults of one output.
IN_EVERY_OUTPUT = """async look => {
    const found = [];
    for (const cell of document.querySelectorAll('.jp-Notebook .jp-CodeCell')) {
        if (!cell.querySelector('.jp-OutputArea-output')) continue;
        cell.scrollIntoView({block: 'center'});
        await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        for (const output of cell.querySelectorAll('.jp-OutputArea-output')) found.push(...eval(look)(output));
    }
    return [...new Set(found)];
}"""

# A slider's inner parts overflow its ends by half a handle, which is intended; a text box scrolls a long path.
STICKS_OUT = """output => [output, ...output.querySelectorAll('*')].filter(one =>
    one.clientWidth > 0 && one.scrollWidth > one.clientWidth + 1 && !one.closest('.noUi-target, .slider-container, option, style, input[type=text]')
    && getComputedStyle(one).display !== 'inline'
).map(one => `${one.tagName}.${one.className}: ${one.scrollWidth} > ${one.clientWidth}: ${one.innerText?.slice(0, 80)}`)"""

FAINT = """output => {
    const parsed = text => { const n = text.match(/[\\d.]+/g).map(Number); return {rgb: n.slice(0, 3), a: n[3] ?? 1}; };
    const over = (top, a, below) => top.map((c, i) => c * a + below[i] * (1 - a));
    const luminance = rgb => rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = one => {
        if (!one) return [255, 255, 255];
        const {rgb, a} = parsed(getComputedStyle(one).backgroundColor);
        return a === 1 ? rgb : over(rgb, a, ground(one.parentElement));
    };
    const opacity = one => one ? Number(getComputedStyle(one).opacity) * opacity(one.parentElement) : 1;
    const found = [], words = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
    while (words.nextNode()) {
        const text = words.currentNode.textContent.trim(), one = words.currentNode.parentElement, style = getComputedStyle(one);
        if (!text || !one.getClientRects().length || one.closest(':disabled, [disabled], style, option')) continue;
        const below = ground(one), {rgb, a} = parsed(style.color), size = parseFloat(style.fontSize);
        const [bright, dark] = [luminance(over(rgb, a * opacity(one), below)), luminance(below)].sort((x, y) => y - x);
        const ratio = (bright + 0.05) / (dark + 0.05), wanted = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
        if (ratio < wanted) found.push(`${ratio.toFixed(2)} ${one.tagName}.${one.className}: ${text.slice(0, 60)}`);
    }
    return found;
}"""

UNNAMED = """output => [...output.querySelectorAll('img')].filter(one => !one.alt.trim()).map(one => one.outerHTML.slice(0, 80))"""


def faults(page: Notebook) -> list[str]:
    """In both themes: elements that overflow or are cut off, text with too little contrast, images without alternative text."""
    found: list[str] = []
    for theme in THEMES:
        page.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait(f"document.body.dataset.jpThemeLight === '{str('Light' in theme).lower()}'")
        page.page.wait_for_timeout(300)  # until its style sheet is applied
        for kind, look in (("sticks out", STICKS_OUT), ("faint", FAINT), ("without alternative text", UNNAMED)):
            found += [f"{theme}, {kind}: {fault}" for fault in page.page.evaluate(IN_EVERY_OUTPUT, look)]
    return found


def beside_each_other(page: Notebook, *places: Any) -> bool:
    """Whether these elements are at the same height, each to the right of the one before."""
    boxes = [place.bounding_box() for place in places]
    return all(abs(one["y"] - two["y"]) < 2 and one["x"] + one["width"] <= two["x"] + 1 for one, two in pairwise(boxes))
