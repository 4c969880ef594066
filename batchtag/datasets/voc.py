"""Pascal VOC: an XML file for each image.

A file is of the image that is called as the file is (000012.xml, 000012.jpg): so the devkit's ImageSets, the
VOCDetection of torchvision and detectron2 read it. Its <filename> is a remark, often of before a renaming, but may also
show a copied file: where it names another image, that is told as `wrong_image`, and no image is taken by it.

Boxes are (xmin, ymin, xmax, ymax) as they stand. The devkit counts pixels from 1 and includes the last, so detectron2
takes 1 off the minima; but labelImg and most tools since write what they draw, from 0, and torchvision's wrapper
(`wrap_dataset_for_transforms_v2`, 0.29) does not shift either. In a file of either kind it is at most a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from batchtag.config.dataset import VocData
from batchtag.datasets.base import Annotated, Box, Found, Problem, finite
from batchtag.datasets.files import is_image, lines_of, names_under, read_files, stem_of
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri


def read_voc(spec: VocData) -> Found:
    """Every image that has annotations. Raises UsageError if there are none, StorageError for a missing folder."""
    annotations, folder = absolute_uri(spec.annotations), absolute_uri(spec.images)
    options = spec.storage_options
    files = _by_stem([name for name in names_under(annotations, options) if name.lower().endswith(".xml")])
    if not files:
        raise UsageError(f"{annotations}: holds no .xml file; data.annotations of kind voc is the folder of them")
    images = _by_stem([name for name in names_under(folder, options) if is_image(name)])
    names = _wanted(spec, known=files) or sorted({*files, *images})
    problems = [
        Problem(
            kind="not_annotated",
            uri=join_uri(folder, images[name]) if name in images else absolute_uri(spec.names),
            detail=f"no {name}.xml in {annotations} says what is on it",
        )
        for name in names
        if name not in files
    ]
    names = [name for name in names if name in files][: spec.limit]
    uris = [join_uri(annotations, files[name]) for name in names]
    found = []
    for name, uri, data in zip(names, uris, read_files(uris, options), strict=True):
        try:
            root = _parse(data)
        except ValueError as error:
            image = join_uri(folder, images.get(name, name))
            problems.append(Problem(kind="unreadable", uri=uri, image=image, detail=str(error)))
            continue
        image = join_uri(folder, images[name] if name in images else _named(root, name))
        one, its_problems = _image(root, uri=uri, image=image, is_difficult_kept=spec.difficult == "keep")
        found.append(one)
        problems += its_problems
    return Found(task="detect", images=found, problems=problems)


def _by_stem(names: list[str]) -> dict[str, str]:
    """Names by themselves without extension, folders and all: so `day1/7.xml` is of `day1/7.jpg`. The first wins."""
    return {name.rpartition(".")[0]: name for name in reversed(names)}


def _wanted(spec: VocData, *, known: Mapping[str, str]) -> list[str]:
    """The names of an ImageSets file. Lines of `Main/cat_train.txt` say -1, 0 or 1 behind the name: cats or none."""
    if not spec.names:
        return []
    names = []
    for line in lines_of(absolute_uri(spec.names), spec.storage_options):
        name, _, mark = line.rpartition(" ")
        name = name.strip() if mark in ("-1", "0", "1") and name and line not in known else line
        names.append(name.rpartition(".")[0] if is_image(name) else name)
    return list(dict.fromkeys(names))


def _parse(data: bytes) -> Element:
    """The file as a tree. Raises ValueError for what is not XML, and for a DOCTYPE, which could define entities.

    expat is asked itself, because ElementTree's own parser does not tell of a DOCTYPE.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"is not XML ({error}); write it again") from error
    root = builder.close()
    if not isinstance(root, Element) or root.tag != "annotation":
        raise ValueError(f"its outermost element is <{root.tag}>, not the <annotation> of Pascal VOC")
    return root


def _refuse_doctype(*_: Any) -> None:
    raise ValueError("it has a DOCTYPE, which VOC files do not need and which can harm; remove it")


def _named(root: Element, name: str) -> str:
    """What to call an image that the folder does not have: as its XML file, with the extension it speaks of."""
    extension = (root.findtext("filename") or "").strip().rpartition(".")[2]
    return f"{name}.{extension}" if is_image(f".{extension}") else f"{name}.jpg"


def _image(root: Element, *, uri: str, image: str, is_difficult_kept: bool) -> tuple[Annotated, list[Problem]]:
    problems, names, boxes = [], [], []
    said = (root.findtext("filename") or "").strip()
    if said and stem_of(said).casefold() != stem_of(uri).casefold() and said.casefold() != stem_of(uri).casefold():
        what = f"names another image, {said!r}, in <filename>; by its own name it is of {image}"
        problems.append(Problem(kind="wrong_image", uri=uri, image=image, detail=what))
    for number, thing in enumerate(root.findall("object"), 1):
        if not is_difficult_kept and (thing.findtext("difficult") or "").strip() == "1":
            continue
        try:
            name, box = _object(thing)
        except ValueError as error:
            what = f"object {number}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image, detail=what))
            continue
        names.append(name)
        boxes.append(box)
    width, height = (_side(root.findtext(f"size/{side}")) for side in ("width", "height"))
    one = Annotated(uri=image, names=names, boxes=boxes, width=width, height=height, source=uri)
    return one, problems


def _object(thing: Element) -> tuple[str, Box]:
    name = (thing.findtext("name") or "").strip()
    if not name:
        raise ValueError("it has no <name>")
    sides = {side: thing.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    missing = [f"<{side}>" for side, text in sides.items() if text is None]
    if missing:
        raise ValueError(f"a {name!r} whose <bndbox> has no {', '.join(missing)}")
    x_min, y_min, x_max, y_max = finite(sides.values())
    return name, (x_min, y_min, x_max, y_max)


def _side(text: str | None) -> int:
    """A width or height in pixels; 0 if the file does not say it, and many tools write 0."""
    try:
        return max(0, int(float(text or 0)))
    except (ValueError, OverflowError):
        return 0
