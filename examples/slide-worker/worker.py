"""Turn a Markdown outline into a PowerPoint deck and say how it goes, one PUBLISH per step.

    python worker.py --job 42 outline.md out.pptx

All that it knows of the notifier is the name of a Redis channel and a few field names.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import redis
from pptx import Presentation
from pptx.presentation import Presentation as Deck

EX_FAILED = 1
EX_UNAVAILABLE = 69  # sysexits.h: a service that is needed is not there

TITLE_LAYOUT, CONTENT_LAYOUT = 0, 1  # positions in the default template
DEEPEST_LEVEL = 4  # the template has five levels of bullets
SPACES_PER_LEVEL = 2


class RenderError(Exception):
    """A failure that has a code of its own, which the viewer's page can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# ---- parse ----


@dataclass
class Slide:
    """One slide of the outline; a line of the body is its level and its text."""

    title: str
    is_title_slide: bool = False
    body: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_outline(path: Path) -> list[Slide]:
    """Read and parse the outline, or say with a code what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RenderError("outline_not_found", f"There is no outline named {path.name}.") from error
    slides = parse(text)
    if not slides:
        raise RenderError("outline_empty", f"{path.name} has no heading, so there is nothing to put on a slide.")
    return slides


def parse(text: str) -> list[Slide]:
    """`#` opens a title slide and `##` a slide; `-` is a bullet, `>` a speaker note, anything else a paragraph."""
    slides: list[Slide] = []
    for line in text.expandtabs(SPACES_PER_LEVEL).splitlines():
        if heading := re.match(r"(##?)\s+(.+)", line):
            slides.append(Slide(plain(heading[2]), is_title_slide=heading[1] == "#"))
        elif not line.strip() or not slides:
            continue  # what stands before the first heading belongs to no slide
        elif note := re.match(r"\s*>\s?(.*)", line):
            slides[-1].notes.append(plain(note[1]))
        elif bullet := re.match(r"(\s*)(?:[-*+]|\d+[.)])\s+(.+)", line):
            level = min(len(bullet[1]) // SPACES_PER_LEVEL, DEEPEST_LEVEL)
            slides[-1].body.append((level, plain(bullet[2])))
        else:
            slides[-1].body.append((0, plain(line)))
    return slides


def plain(text: str) -> str:
    """The text without the marks for emphasis and code, which a slide would show as they are."""
    return re.sub(r"(\*\*|__|\*|`)(\S(?:.*?\S)?)\1", r"\2", text.strip())


# ---- deck ----


def render(slides: list[Slide]) -> Iterator[tuple[int, Slide, Deck]]:
    """Build the deck, and yield after each slide, so that the caller can tell how far it is."""
    deck = Presentation()
    for number, slide in enumerate(slides, start=1):
        add_slide(deck, slide)
        yield number, slide, deck


def add_slide(deck: Deck, slide: Slide) -> None:
    """Append one slide with its body and its notes."""
    layout = deck.slide_layouts[TITLE_LAYOUT if slide.is_title_slide else CONTENT_LAYOUT]
    page = deck.slides.add_slide(layout)
    page.shapes.title.text = slide.title
    frame = page.placeholders[1].text_frame
    for index, (level, text) in enumerate(slide.body):
        paragraph = frame.paragraphs[0] if index == 0 else frame.add_paragraph()
        paragraph.text, paragraph.level = text, level
    if slide.notes:
        page.notes_slide.notes_text_frame.text = "\n".join(slide.notes)


def save(deck: Deck, path: Path) -> None:
    """Write beside the target and rename, so that nobody ever opens half a deck."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        deck.save(str(partial))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# ---- report ----


class Reporter:
    """Says what happens to one job."""

    def __init__(self, url: str, channel: str, job: str) -> None:
        self.redis = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3)
        self.channel = channel
        self.job = job

    def say(self, status: str, **fields: object) -> None:
        """Publish one update; what is not given keeps its value at the notifier."""
        update = {"jobId": self.job, "status": status, **fields, "timestamp": datetime.now(timezone.utc).isoformat()}
        self.redis.publish(self.channel, json.dumps(update, ensure_ascii=False))


def work(outline: Path, target: Path, report: Reporter, delay: float) -> None:
    """One job from its beginning to its end; every way out but a lost Redis has been published."""
    report.say("queued", progress=0, message=f"Waiting to render {outline.name}")
    try:
        slides = read_outline(outline)
        report.say("running", progress=0, message=f"Rendering {len(slides)} slides")
        for number, slide, deck in render(slides):
            time.sleep(delay)
            # 100 is kept for the saved file: a deck that is only in memory is not done.
            progress = min(99, round(100 * number / len(slides)))
            report.say("running", progress=progress, message=f"Slide {number} of {len(slides)}: {slide.title}")
        save(deck, target)
    except redis.RedisError:
        raise
    except Exception as error:
        # What the viewer reads names the kind of failure only: messages of exceptions hold paths of this machine.
        failure = RenderError("render_failed", f"The deck could not be rendered ({type(error).__name__}).")
        failure = error if isinstance(error, RenderError) else failure
        report.say("failed", error={"code": failure.code, "message": str(failure)})
        raise failure from (None if failure is error else error)
    report.say("completed", progress=100, message=f"{len(slides)} slides", data={"slides": len(slides), "file": target.name})


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outline", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--job", required=True, help="the id of the job that is reported on")
    parser.add_argument("--redis", default="redis://127.0.0.1:6379", metavar="URL")
    parser.add_argument("--channel", default="job-updates")
    parser.add_argument("--delay", type=float, default=0, metavar="SECONDS", help="a pause before each slide, to watch it")
    args = parser.parse_args()
    try:
        work(args.outline, args.target, Reporter(args.redis, args.channel, args.job), args.delay)
    except RenderError as error:
        cause = f" {error.__cause__}" if error.__cause__ else ""
        print(f"worker: {error.code}: {error}{cause}", file=sys.stderr)
        return EX_FAILED
    except redis.RedisError as error:
        print(f"worker: Redis can't be reached, so the work stops here: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
