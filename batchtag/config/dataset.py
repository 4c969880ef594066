"""The `data` section of a training job: labelled images, the share held out, and what to do about problems in them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from batchtag.config.base import Spec

Uri = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(min_length=1)]


class _AnyData(Spec):
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options: credentials, endpoint, region. Credentials are better given in the environment. Storage
    options are never written into OUT."""
    limit: int | None = Field(default=None, ge=1)
    """Largest number of images: the first ones; of classified images, the first ones of each class in turn. By default
    all of them."""


class CocoData(_AnyData):
    """Boxes in a COCO JSON file."""

    kind: Literal["coco"] = "coco"
    """The format of the data."""
    uri: Uri
    """The JSON file."""
    images: str = ""
    """The folder that `file_name` is relative to; by default the folder of the JSON file."""


class VocData(_AnyData):
    """Boxes in Pascal VOC XML files: one file for each image, with the same name."""

    kind: Literal["voc"] = "voc"
    """The format of the data."""
    annotations: Uri
    """The folder of the XML files."""
    images: Uri
    """The folder of the images."""
    names: str = ""
    """A text file with the names of the images to take, one per line (VOC's ImageSets); by default all are taken."""
    difficult: Literal["keep", "drop"] = "keep"
    """Whether to keep or drop objects that are marked as difficult."""


class YoloData(_AnyData):
    """Boxes in YOLO text files. Each line holds the class, centre and size of one box, as fractions of the displayed
    image."""

    kind: Literal["yolo"] = "yolo"
    """The format of the data."""
    images: Uri
    """The folder of the images."""
    labels: str = ""
    """The folder of the text files. By default `/images/` in the URI of an image is replaced by `/labels/`; without
    such a part, the text file lies beside the image."""
    names: list[Label] | Uri
    """The classes in the order of their numbers; or the URI of a data.yaml, or of a text file with one class per
    line."""


class FolderData(_AnyData):
    """Classified images, in one folder for each class."""

    kind: Literal["folders"] = "folders"
    """The format of the data."""
    uri: Uri
    """The folder that holds the folders of the classes."""
    class_from: Literal["name", "path"] = "name"
    """The name of a class: the name of its folder (`Kiwi`), or the path of its folder (`Fruit/Kiwi`)."""


class TableData(_AnyData):
    """A Parquet, CSV or JSONL file with one row for each box, or for each classified image."""

    kind: Literal["table"] = "table"
    """The format of the data."""
    uri: Uri
    """The file with the table."""
    images: str = ""
    """The folder that relative image names in the table are relative to; by default the folder of the table."""
    uri_column: str = "uri"
    """The column with the names or URIs of the images."""
    label_column: str = "label"
    """The column with the classes."""
    box_columns: list[str] = Field(default_factory=lambda: ["x_min", "y_min", "x_max", "y_max"])
    """The four columns with the corners of a box (left, top, right, bottom), in pixels of the displayed image. A table
    without these columns, or `[]` here, means classified images."""

    @field_validator("box_columns")
    @classmethod
    def _check_four(cls, columns: list[str]) -> list[str]:
        if len(columns) not in (0, 4):
            raise ValueError("it must name four columns (x_min, y_min, x_max, y_max), or none")
        return columns


DatasetSpec = Annotated[CocoData | VocData | YoloData | FolderData | TableData, Field(discriminator="kind")]


class Holdout(Spec):
    """A share of the images of `train` that is held out as `val`. The images are chosen by their content, so the choice
    is the same every time."""

    kind: Literal["holdout"] = "holdout"
    """The share is held out of `train`; any other kind names validation data of their own."""
    share: float = Field(default=0.2, gt=0, lt=1)
    """The share of the images that is held out."""
    seed: int = 0
    """Another seed chooses other images."""


class OnProblem(Spec):
    """What to do about each kind of problem: `drop` leaves the box or image out, `fail` ends the command, `keep` only
    reports it.

    The defaults drop what costs no more than itself: one box, or one image, as a tagging run turns a broken image into
    one failure row. They fail where it is doubtful that these are the intended data or labels, before an hour of
    training is spent on them. All problems are counted and reported in any case.
    """

    renamed_keys: ClassVar = {"missing_picture": "missing_image", "wrong_picture": "wrong_image"}

    zero_area: Literal["drop", "fail"] = "drop"
    """A box without area."""
    outside: Literal["drop", "fail"] = "drop"
    """A box that lies completely outside the displayed image."""
    over_edge: Literal["clip", "drop", "fail"] = "clip"
    """A box that reaches more than one pixel beyond the displayed image. Boxes that reach up to one pixel beyond it are
    clipped and not reported."""
    unknown_class: Literal["drop", "fail"] = "fail"
    """A class that is not among the labels. The default fails because a typing error would cost the class its
    examples."""
    missing_image: Literal["drop", "fail"] = "fail"
    """Annotations of an image that does not exist. The default fails because the usual cause is a wrong folder."""
    undecodable: Literal["drop", "fail"] = "drop"
    """An image that cannot be decoded."""
    unreadable: Literal["drop", "fail"] = "fail"
    """An annotation that cannot be parsed."""
    wrong_image: Literal["keep", "drop", "fail"] = "fail"
    """A VOC file that names another image than the one with its own name. `keep` uses the image with the file's
    name."""
    wrong_size: Literal["keep", "drop", "fail"] = "fail"
    """An image whose displayed size differs from the size in its annotations; its boxes are in another frame."""
    not_annotated: Literal["drop", "fail"] = "drop"
    """An image without annotations. (A YOLO image without a text file has no objects, which is not a problem.)"""
    empty_class: Literal["keep", "drop", "fail"] = "fail"
    """A class without examples in `train`, which a model could not learn. `drop` removes it from the labels."""
    duplicate: Literal["keep", "drop", "fail"] = "keep"
    """An image with the same content as another image of the same split. `drop` keeps the first."""
    conflict: Literal["drop", "fail"] = "fail"
    """Images with the same content in different classes. `drop` drops all of them."""
    leak: Literal["keep", "drop", "fail"] = "drop"
    """An image of `train` that is also in `val`; it would make the scores better than the model. `drop` removes it from
    `train`."""


class DataSpec(Spec):
    """The images to train on, and the images to measure on."""

    train: DatasetSpec
    """The labelled images to train on."""
    val: Annotated[CocoData | VocData | YoloData | FolderData | TableData | Holdout, Field(discriminator="kind")] = (
        Field(default_factory=Holdout)
    )
    """The labelled images to measure on. By default a fifth of `train` is held out."""
    labels: list[Label] = Field(default_factory=list)
    """The classes in their order; any other class in the data is then an `unknown_class`. By default the classes of the
    data: in the order in which COCO and YOLO files declare them, else sorted."""
    on_problem: OnProblem = Field(default_factory=OnProblem)
    """What to do about each kind of problem in the data."""

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: list[str]) -> list[str]:
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(f"it names {', '.join(map(repr, repeated))} more than once; name each class once")
        return labels
