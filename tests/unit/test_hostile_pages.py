"""Pages and a notebook's cell of records that mean harm: in a real browser they load nothing, run nothing, and stay in their place."""

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tfspawner.base.shapes import DamagedFile
from tfspawner.errors import JobFailed
from tfspawner.follow.outcome import Outcome
from tfspawner.follow.state import JobState, ReplicaState
from tfspawner.pages.comparison import page as compared_page
from tfspawner.pages.run import page
from tfspawner.pages.sweep import page as sweep_page
from tfspawner.views.notebook import NotebookView

needs_chromium = pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
SHA = "ab" * 32
TAGS = {
    "a", "b", "body", "br", "circle", "code", "div", "figcaption", "figure", "h1", "h2", "head", "html", "i", "line", "meta", "p", "path",
    "pre", "span", "strong", "style", "svg", "table", "tbody", "td", "text", "th", "title", "tr",
}  # fmt: skip
ATTRIBUTES = {
    "aria-label", "charset", "class", "colspan", "content", "cx", "cy", "d", "height", "href", "http-equiv", "lang", "name", "r", "rel", "role",
    "style", "target", "text-anchor", "title", "viewbox", "width", "x", "x1", "x2", "y", "y1", "y2",
}  # fmt: skip
CLASSES = {
    "badge", "best", "cause", "charts", "code", "dashed", "dim", "failed", "faint", "key", "mono", "number", "other", "pending", "row", "rule",
    "running", "scroll", "succeeded", "sum", "swatch", "stopped", "tfspawner", "told", "track", "value", "whole", *(f"s{n}" for n in range(8)),
}  # fmt: skip


def hostile(url: str) -> str:
    """What would leave its place, load or run, if it were let."""
    ran = f"document.title='ran';fetch('{url}/ran')"
    return " ".join([
        "{{7*7}} --> ]]> \u202e\u2066", f"</title></style></pre></td></table></div></svg><script>{ran}</script>", f'"><img src="{url}/img" onerror="{ran}">',
        f"' onmouseover={ran} style='position:fixed;inset:0;background:url({url}/css)' class='jp-Dialog", f"<base href={url}/base/>",
        f"<style>@import url({url}/import);*{{position:fixed}}</style>", f'<svg onload="{ran}">', f"<link rel=stylesheet href={url}/link>",
        f"<iframe src={url}/frame></iframe><object data={url}/object></object>", f"<meta http-equiv=refresh content='0;url={url}/meta'>",
        f"<form action={url}/form><input autofocus onfocus={ran}>", "\ud800".encode("utf-8", "replace").decode(), "x" * 3000,
    ])  # fmt: skip


class Counted:
    """A server that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def server() -> Iterator[Counted]:
    found = Counted()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def texts(tmp_path, server) -> dict[str, str]:
    """{name: HTML} of all pages that are made of records, each text of which means harm."""
    bad = hostile(server.url)
    name, line = "x\"><img src=x onerror=document.title='ran'>.h5", bad[:4000]
    spec = {
        "job": "bad", "code_sha256": SHA, "script": line, "args": [bad, f"--{bad}", "javascript:alert(1)"], "workers": 1, "on": "kubernetes", "tag": line,
        "image": line, "env": ["KEY"], "volumes": [line],
    }  # fmt: skip
    report = {
        "job": "bad", "result": "succeeded track", "seconds": 1, "artifacts": f"javascript:{line}",
        "replicas": [{"replica": "worker-0", "state": "failed key row jp-", "node": line, "message": bad, "exit_code": 1}],
        "cause": {"replica": "worker-0", "message": bad, "hint": bad, "tail": [bad]}, "restarts": [{"message": bad, "generation": 1}],
        "files": {"worker-0": [{"path": name, "size": 1, "sha256": SHA}, {"path": "javascript:alert(1)", "size": 1, "sha256": SHA}]},
    }  # fmt: skip
    events = [
        {"time": 1e9 + 1e8 * (-1) ** n * n, "event": "replica", "replica": "worker-0", "state": "track row"}
        for n in range(5)
    ]
    log = "".join(f"Epoch {n}/2\n1/1 - 1s - loss: {n} - {'x' * 200}: {10.0 ** (150 * n)}\n" for n in (1, 2)) + bad
    for job in ("bad", "sw-1", "sw-2"):
        (tmp_path / job / "logs").mkdir(parents=True)
        (tmp_path / job / "spec.json").write_text(json.dumps({**spec, "workers": len(job)}))
        (tmp_path / job / "report.json").write_text(json.dumps(report))
        (tmp_path / job / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        (tmp_path / job / "logs/worker-0.log").write_text(log)
        (tmp_path / job / "report.html").touch()
    printable = "".join(c for c in bad if c.isprintable())
    points = [{"job": f"sw-{n}", "values": {"lr": f"{n}{printable}"}, "id": "a", "result": "timeout key", "error": bad, "seconds": 1,
               "metrics": {"loss": n, line: n}} for n in (1, 2)]  # fmt: skip
    record = {"sweep": "sw", "id": "a", "grid": {"lr": [point["values"]["lr"] for point in points]}, "parallel": 1, "spec": spec, "files": {},
              "points": points}  # fmt: skip
    (tmp_path / "sw").mkdir()
    (tmp_path / "sw/sweep.json").write_text(json.dumps(record))
    odd = shutil.copytree(tmp_path / "bad", tmp_path / 'javascript:x"><img src=x>')
    return {
        "report": page(tmp_path / "bad"), "compare": compared_page([tmp_path / "bad", odd], tmp_path), "sweep": sweep_page(tmp_path / "sw"),
        "notebook": cell(bad, tmp_path),
    }  # fmt: skip


def cell(bad: str, folder: Path) -> str:
    """What a notebook shows of a job whose agents mean harm."""
    shown: list[str] = []
    view = NotebookView(lambda formats: shown.append(formats["text/html"]), bad)
    line = ReplicaState(replica="worker-0", state=f"jp-Dialog lm-Widget {bad}", node=bad, message=bad, storing=bad)
    view.state = JobState(job=bad, phase=bad, replicas={"worker-0": line})
    view.note(bad)
    view.write("worker-0", [bad])
    error = JobFailed(bad, hint=bad)
    error.lines, error.about = [bad], bad
    error.outcome = Outcome(
        job=bad, result=f"jp-Dialog {bad}", folder=Path(f"runs/{bad[:100]}"), cause=None, artifacts=bad
    )
    view.end(error=error)
    return shown[-1]


class Elements(HTMLParser):
    """The elements of a page, and what is wrong with them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.hrefs: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.wrong += [tag] if tag not in TAGS else []
        self.wrong += [f"{tag} {name}" for name in given if name not in ATTRIBUTES]
        self.wrong += [f"class {word}" for word in given.get("class", "").split() if word not in CLASSES]
        if not re.fullmatch(r"(left:\d+\.\d\d%;width:\d+\.\d\d%)?", given.get("style", "")):
            self.wrong.append(f"style {given['style']}")
        if "href" in given:
            self.hrefs.append(given["href"])


KINDS = ["report", "compare", "sweep", "notebook"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_value_becomes_an_element_an_attribute_a_class_a_style_or_a_url(texts, kind):
    found = Elements(texts[kind])
    assert found.wrong == []
    places = {"report": r"logs/worker-0\.log|files/worker-0/[^:\"<>]+", "compare": r"[^:\"<>]+/report\.html", "sweep": r"\.\./sw-\d/report\.html",
              "notebook": r"\./runs/[^:\"<>]+/report\.html"}[kind]  # fmt: skip
    assert [href for href in found.hrefs if not re.fullmatch(places, href)] == []
    assert found.hrefs
    assert not set("\u202e\u2066\0") & set(texts[kind])


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_page_says_that_it_loads_and_runs_nothing(texts, kind):
    policy = html.unescape(re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', texts[kind])[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert texts[kind].index("Content-Security-Policy") < texts[kind].index("<title>")


def dom(text: str, folder: Path) -> tuple[str, str]:
    """The page's elements once it is loaded, and what the browser said."""
    path = folder / "shown.html"
    path.write_text(text)
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder}/profile",
         "--window-size=1000,800", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout, done.stderr


CSP = re.compile(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>")
# What is drawn beside its place: outside of the page, of its bar, or, for a cell, over what stands above and below it.
LOOK = """<script>addEventListener('load', () => {
  const out = [], box = e => e.getBoundingClientRect(), root = document.querySelector('.tfspawner');
  if (document.documentElement.scrollWidth > innerWidth) out.push('wider than the window');
  for (const e of document.querySelectorAll('*')) {
    if (['fixed', 'sticky'].includes(getComputedStyle(e).position)) out.push('fixed: ' + e.tagName);
    if (getComputedStyle(e).position === 'absolute' && !e.matches('.track b')) out.push('absolute: ' + e.tagName); }
  for (const t of document.querySelectorAll('.track')) if (getComputedStyle(t).overflow !== 'hidden') out.push('track');
  if (root) for (const id of ['above', 'below']) { const e = document.getElementById(id); e.scrollIntoView(); const b = box(e);
    if (document.elementFromPoint(b.left + 5, b.top + 5) !== e) out.push('over ' + id); }
  document.body.setAttribute('data-found', JSON.stringify(out)); })</script>"""


@needs_chromium
@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_loads_and_runs_nothing_of_a_record_and_all_stays_in_its_place(texts, server, tmp_path, kind):
    text = texts[kind]
    if kind == "notebook":
        text = f"<!doctype html><body><div id=above>above</div>{text}<div id=below>below</div>{LOOK}</body>"
    else:  # without the policy, so that escaping alone holds, and the page can be measured
        text = CSP.sub("", text).replace("</body>", f"{LOOK}</body>")
    found, _ = dom(text, tmp_path)
    assert json.loads(html.unescape(re.search(r'data-found="([^"]*)"', found)[1])) == []
    assert "<title>ran" not in found
    assert server.asked == []


@needs_chromium
@pytest.mark.parametrize("guarded", [True, False], ids=["with the policy", "without it"])
def test_the_policy_holds_even_where_a_value_were_not_escaped(texts, server, tmp_path, guarded):
    bad = hostile(server.url)
    text = texts["report"].replace("<body>", f"<body>{bad.replace('http-equiv=refresh', '')}")
    found, said = dom(text if guarded else CSP.sub("", text), tmp_path)
    assert ("<title>ran" in found) != guarded
    assert bool(server.asked) != guarded
    assert ("Content Security Policy" in said) == guarded


def test_what_would_be_a_link_elsewhere_is_refused(texts, tmp_path):
    path = tmp_path / "bad/report.json"
    report = json.loads(path.read_text())
    for name in ("/etc/passwd", "../x", "//example.org/x", "a/../../b", "", "x\n"):
        report["files"]["worker-0"][0]["path"] = name
        path.write_text(json.dumps(report))
        with pytest.raises(DamagedFile, match=r"report.json: files.worker-0\[0\].path is .*; it must be a path"):
            page(tmp_path / "bad")
