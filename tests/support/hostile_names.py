"""Names of pictures that would act if a page took them for markup."""

from typing import Any

NAMES = (
    "<img src=x onerror=window.ran=1>.png",
    "<script>window.ran=1</script>.png",
    '" onmouseover="window.ran=1" autofocus onfocus="window.ran=1.png',
    "'><svg onload=window.ran=1>.png",
    "[link](javascript:window.ran=1).png",
    "![x](x.png 'y' onerror='window.ran=1').png",
    "</title></style></textarea><b id=injected>.png",
    "`<b id=injected>`|<b id=injected>|.png",
    "${window.ran=1}{{7*7}}{%x%}.png",
    "&lt;b id=injected&gt;.png",
    "~~~.png",
)
INJECTED = "#injected, [onerror], [onload], [onmouseover], [onfocus], [href^=javascript], svg[onload], img[src=x]"


def inert(browser: Any, *shown: str) -> None:
    """Assert that a page ran no script in a name, parsed no name as markup, and shows the given ones letter by letter.

    Every script in NAMES sets `window.ran`.
    """
    assert browser.execute_script("return window.ran") is None
    assert browser.execute_script("return [...document.querySelectorAll(arguments[0])].length", INJECTED) == 0
    # Our own pages load scripts from files only, so an inline one came from a name.
    assert browser.execute_script("return document.querySelectorAll('script:not([src])').length") == 0
    text = browser.execute_script("return document.body.textContent")
    for name in shown:
        assert name in text
