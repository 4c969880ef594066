"""Pascal VOC: one XML file for each image.

An XML file belongs to the image of the same name (000012.xml, 000012.jpg): so the devkit's ImageSets, torchvision's
VOCDetection and detectron2 read it. Its <filename> is often from before a renaming, but may also show that a file was
copied. Where it names another image, that is the problem `wrong_image`, and <filename> never selects an image.

Boxes are (xmin, ymin, xmax, ymax) as written. The devkit counts pixels from 1 and includes the last one, so detectron2
subtracts 1 from the minima; but labelImg and most later tools write what they draw, from 0, and torchvision's wrapper
(`wrap_dataset_for_transforms_v2`, 0.29) does not shift either. The difference is at most one pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from batchtag.config.dataset import VocData
from batchtag.datasets.annotations import AnnotatedImage, Box, ParsedAnnotations, parse_numbers
from batchtag.datasets.base import Problem
from batchtag.datasets.files import file_stem, is_image_name, list_names, read_files, read_lines
from batchtag.errors import UsageError
from batchtag.storage import absolute_uri, join_uri

_Parsed = tuple[AnnotatedImage, list[Problem]]


def read_voc(spec: VocData) -> ParsedAnnotations:
    """Read every image that has an XML file. Raises UsageError if there is none, StorageError for a missing folder."""
    xml_folder, image_folder = absolute_uri(spec.annotations), absolute_uri(spec.images)
    options = spec.storage_options
    xml_files = _by_stem([name for name in list_names(xml_folder, options) if name.lower().endswith(".xml")])
    if not xml_files:
        raise UsageError(f"{xml_folder}: contains no .xml file; data.annotations of kind voc is the folder of them")
    image_files = _by_stem([name for name in list_names(image_folder, options) if is_image_name(name)])
    stems = _read_image_set(spec, xml_files=xml_files) or sorted({*xml_files, *image_files})
    problems = [
        Problem(
            kind="not_annotated",
            uri=join_uri(image_folder, image_files[stem]) if stem in image_files else absolute_uri(spec.names),
            detail=f"{xml_folder} has no {stem}.xml with its annotations",
        )
        for stem in stems
        if stem not in xml_files
    ]
    stems = [stem for stem in stems if stem in xml_files][: spec.limit]
    uris = [join_uri(xml_folder, xml_files[stem]) for stem in stems]
    images = []
    for stem, uri, data in zip(stems, uris, read_files(uris, options), strict=True):
        try:
            root = _parse_xml(data)
        except ValueError as error:
            image_uri = join_uri(image_folder, image_files.get(stem, stem))
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=str(error)))
            continue
        image_uri = join_uri(image_folder, image_files[stem] if stem in image_files else _guess_file_name(root, stem))
        image, image_problems = _parse_image(root, uri, image_uri, keeps_difficult=spec.difficult == "keep")
        images.append(image)
        problems += image_problems
    return ParsedAnnotations(task="detect", images=images, problems=problems)


def _by_stem(names: Sequence[str]) -> dict[str, str]:
    """Map each path without its extension to the path, so `day1/7.xml` belongs to `day1/7.jpg`. The first path wins."""
    return {name.rpartition(".")[0]: name for name in reversed(names)}


def _read_image_set(spec: VocData, *, xml_files: Mapping[str, str]) -> list[str]:
    """Return the names in an ImageSets file, without extension; an empty list if the job names no such file.

    Lines of `Main/cat_train.txt` have -1, 0 or 1 behind the name (whether it shows cats), which is removed.
    """
    if not spec.names:
        return []
    stems = []
    for line in read_lines(absolute_uri(spec.names), spec.storage_options):
        name, _, mark = line.rpartition(" ")
        name = name.strip() if mark in ("-1", "0", "1") and name and line not in xml_files else line
        stems.append(name.rpartition(".")[0] if is_image_name(name) else name)
    return list(dict.fromkeys(stems))


def _parse_xml(data: bytes) -> Element:
    """Parse the file. Raises ValueError for anything but XML, and for a DOCTYPE, which could define entities.

    This uses expat directly, because ElementTree's parser does not report a DOCTYPE.
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


def _guess_file_name(root: Element, stem: str) -> str:
    """Return a name for an image that is not in the folder: that of its XML file, with the extension of <filename>."""
    extension = (root.findtext("filename") or "").strip().rpartition(".")[2]
    return f"{stem}.{extension}" if is_image_name(f".{extension}") else f"{stem}.jpg"


def _parse_image(root: Element, uri: str, image_uri: str, *, keeps_difficult: bool) -> _Parsed:
    problems, class_names, boxes = [], [], []
    file_name = (root.findtext("filename") or "").strip()
    own_stem = file_stem(uri).casefold()
    if file_name and own_stem not in (file_stem(file_name).casefold(), file_name.casefold()):
        detail = f"names another image, {file_name!r}, in <filename>; by its own name it belongs to {image_uri}"
        problems.append(Problem(kind="wrong_image", uri=uri, image=image_uri, detail=detail))
    for number, element in enumerate(root.findall("object"), 1):
        if not keeps_difficult and (element.findtext("difficult") or "").strip() == "1":
            continue
        try:
            class_name, box = _parse_object(element)
        except ValueError as error:
            detail = f"object {number}: {error}"
            problems.append(Problem(kind="unreadable", uri=uri, image=image_uri, detail=detail))
            continue
        class_names.append(class_name)
        boxes.append(box)
    width, height = (_parse_side(root.findtext(f"size/{side}")) for side in ("width", "height"))
    image = AnnotatedImage(
        uri=image_uri, class_names=class_names, boxes=boxes, width=width, height=height, annotation_uri=uri
    )
    return image, problems


def _parse_object(element: Element) -> tuple[str, Box]:
    class_name = (element.findtext("name") or "").strip()
    if not class_name:
        raise ValueError("it has no <name>")
    sides = {side: element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
    missing = [f"<{side}>" for side, text in sides.items() if text is None]
    if missing:
        raise ValueError(f"a {class_name!r} whose <bndbox> has no {', '.join(missing)}")
    x_min, y_min, x_max, y_max = parse_numbers(sides.values())
    return class_name, (x_min, y_min, x_max, y_max)


def _parse_side(text: str | None) -> int:
    """Return a width or height in pixels; 0 if the file does not have it. Many tools write 0."""
    try:
        return max(0, int(float(text or 0)))
    except (ValueError, OverflowError):
        return 0
