import pytest

from book.leftovers import RULES, leftovers

PAGE = (
    "<html><head><title>**a**</title></head><body><article>{}</article></body></html>"
)
OUTPUT = (
    '<div class="cell container"><div class="cell_input"><div class="highlight">'
    "<pre>x = 1234567.5  # **all** | of | it | `{{ref}}`</pre></div></div>"
    '<div class="cell_output"><div class="output stream"><div class="highlight"><pre>'
    "{}</pre></div></div></div></div>"
)

# For each rule pages that it finds fault with, and pages like them that are in order.
BAD = {
    "a table that stayed text": [
        "<p>| run | images |\n| — | — |\n| a | 40,000 |</p>",
        "<p>| run |\n|---|</p>",
        OUTPUT.format("| run | images |\n| a | 4 |"),
    ],
    "asterisks around words": ["<p>**by hand**:</p>", OUTPUT.format("**A-0** done")],
    "a heading that stayed text": [
        "<p>text\n### The end</p>",
        OUTPUT.format("## Runs"),
    ],
    "a fence that stayed text": [
        "<p>```python\nx = 1\n```</p>",
        "<p>:::{note}\n:::</p>",
    ],
    "a role that stayed text": [
        "<p>see {ref}<code>chapter 14 &lt;ch-measuring&gt;</code></p>",
        OUTPUT.format("see {cite:t}`karras`"),
    ],
    "a label that stayed text": ["<p>(recorded-results)=</p>", "<p>by (eq-r1) and</p>"],
    "a link that stayed text": [
        "<p>[the paper](https://example.org)</p>",
        "<p>[there](welcome.md)</p>",
        "<p>[<code>x</code>](../book/x.html)</p>",
    ],
    "mathematics that stayed text": ["<p>$$x = 1$$</p>", r"<p>\frac{1}{2}</p>"],
    "a number that nobody formatted": [
        "<td>30684435414.0</td>",
        "<p>from -1234567.89</p>",
        OUTPUT.format("12108262 steps, y = 3"),
        OUTPUT.format("tensor([0.7804743647575378])"),
    ],
    "a traceback": [OUTPUT.format("Traceback (most recent call last)\n  File")],
    "a warning": [
        OUTPUT.format("a.py:3: UserWarning: too few"),
        OUTPUT.format("[IPKernelApp] WARNING | Kernel"),
    ],
    "the address of an object": [
        OUTPUT.format("&lt;function draw at 0x7f00deadbeef&gt;"),
        OUTPUT.format("&lt;IPython.core.display.Markdown object&gt;"),
    ],
    "a picture without alt text": ["<img src='a.png'>", "<img src='a.png' alt=' '>"],
    "an empty table": [
        "<table><thead><tr><th>run</th></tr></thead><tbody></tbody></table>",
        "<table><tr><td> </td></tr></table>",
    ],
}
GOOD = [
    "<p>the length |x| of |y|, and p(x | y)</p>",
    OUTPUT.format(
        "runs   toy Fréchet   | paper:   FID\nA 3      0.25      |        4.40"
    ),
    OUTPUT.format("+---+---+\n 2 ** 3 ** 2, a **kwargs, ‖d‖**2"),
    OUTPUT.format("# one comment, and #3 of 4"),
    "<p><code>**bold**</code> <code>{ref}`x`</code> <code>|a|b|</code></p>",
    "<table><tr><td><code>a</code><code>b</code></td></tr></table>",
    "<p>the set {a, b} and <code>x</code>, {a} is one</p>",
    "<p>(see above) = (a)</p><p>f(x)[0] (then) [1] (Karras, 2020)</p>",
    r'<div class="math">\[\begin{align}\frac{1}{2}\end{align}\]</div>',
    r'<p>It costs $5. <span class="math">\(\frac 1 2 \mathbb E\)</span></p>',
    OUTPUT.format("1,234,567.5  123456.5  0.12345678  3.07 × 10¹⁰  1e-12  ab1234567.5"),
    "<p>checkpoint-0000640.json, commit 0123456789ab</p>",
    "<p>doi:10.1145/3065386, ISBN 978-0262035613</p>",
    "<table><tr><th>1234</th><td>5678</td><td>9.25</td></tr></table>",
    '<dl><dt class="sig">f(gain: float = 1.4142135623730951)</dt><dd>Text.</dd></dl>',
    '<div class="highlight"><pre>print("**x**", 1234567.5)</pre></div>',
    "<p>A warning: none. What a Traceback is; a UserWarning is shown.</p>",
    OUTPUT.format("&lt;0.01 at 3 of 4&gt; an object"),
    "<img src='a.png' alt='Two curves that cross.'>",
    "<table><tr><th>run</th></tr><tr><td>a</td></tr></table>",
    "<table><tr><td><img src='a.png' alt='A face.'></td></tr></table>",
]


@pytest.mark.parametrize(
    ("rule", "inside"),
    [(rule, inside) for rule, pages in BAD.items() for inside in pages],
)
def test_what_is_left_over_is_found(rule, inside):
    assert {told.split(":")[0] for told in leftovers(PAGE.format(inside))} == {rule}


@pytest.mark.parametrize("inside", GOOD)
def test_what_is_in_order_passes(inside):
    assert list(leftovers(PAGE.format(inside))) == []


def test_every_rule_has_a_page_that_it_finds_fault_with():
    assert set(BAD) >= set(RULES)


def test_what_is_found_is_told_with_the_words_around_it():
    [told] = leftovers(PAGE.format("<p>It ends with **these\xa0words** here.</p>"))
    assert told == "asterisks around words: …It ends with **these words** here.…"


def test_a_page_without_an_article_is_no_page():
    assert list(leftovers("<html><body><p>Moved.</p></body></html>")) == ["no article"]
