"""What a job may say of labelled data: where it lies, what is held out of it, and what becomes of its problems."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from batchtag.config.base import Spec

Uri = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(min_length=1)]


class _AnyData(Spec):
    storage_options: dict[str, Any] = Field(default_factory=dict)
    """fsspec options: credentials, endpoint, region. Better in the environment; never written anywhere by us."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many images; of classified ones, the first of each class in turn."""


class CocoData(_AnyData):
    """Boxes in a COCO JSON file."""

    kind: Literal["coco"] = "coco"
    uri: Uri
    images: str = ""
    """The folder that `file_name` is relative to; by default that of the JSON file."""


class VocData(_AnyData):
    """Boxes in Pascal VOC XML files, one for each image, of the same name."""

    kind: Literal["voc"] = "voc"
    annotations: Uri
    images: Uri
    names: str = ""
    """A text file that says which images to take, one name a line (VOC's ImageSets); by default all."""
    difficult: Literal["keep", "drop"] = "keep"
    """What becomes of objects that are marked as difficult."""


class YoloData(_AnyData):
    """Boxes in YOLO text files: class, centre and size of a box a line, as fractions of the displayed image."""

    kind: Literal["yolo"] = "yolo"
    images: Uri
    labels: str = ""
    """The folder of the text files; by default `/images/` in an image's URI becomes `/labels/`, else beside it."""
    names: list[Label] | Uri
    """The classes in the order of their numbers, or the URI of a data.yaml or of a text file with one a line."""


class FolderData(_AnyData):
    """Classified images in a folder for each class."""

    kind: Literal["folders"] = "folders"
    uri: Uri
    class_from: Literal["name", "path"] = "name"
    """A class is called as the folder of its images (`Kiwi`), or as the way to it (`Fruit/Kiwi`)."""


class TableData(_AnyData):
    """A Parquet, CSV or JSONL file with a row for each box, or for each classified image."""

    kind: Literal["table"] = "table"
    uri: Uri
    images: str = ""
    """The folder that relative names in the table are relative to; by default that of the table."""
    uri_column: str = "uri"
    label_column: str = "label"
    box_columns: list[str] = Field(default_factory=lambda: ["x_min", "y_min", "x_max", "y_max"])
    """Pixels of the displayed image. A table without these columns is of classified images; so it is with []."""

    @field_validator("box_columns")
    @classmethod
    def _check_four(cls, columns: list[str]) -> list[str]:
        if len(columns) not in (0, 4):
            raise ValueError("it must name four columns (x_min, y_min, x_max, y_max), or none")
        return columns


DatasetSpec = Annotated[CocoData | VocData | YoloData | FolderData | TableData, Field(discriminator="kind")]


class Holdout(Spec):
    """A share of the images of `train` becomes `val`: always the same ones, chosen by what is in them."""

    kind: Literal["holdout"] = "holdout"
    share: float = Field(default=0.2, gt=0, lt=1)
    seed: int = 0


class OnProblem(Spec):
    """What becomes of each kind of problem: `drop` goes on without it, `fail` ends the command, `keep` only tells.

    What costs no more than itself is dropped: one box, one image, as a run pays for a broken image with one row.
    What makes it doubtful that these are the data, or the labels, that were meant is fatal, before an hour of training
    is spent on them. Everything is counted and told in any case.
    """

    zero_area: Literal["drop", "fail"] = "drop"
    """A box without area."""
    outside: Literal["drop", "fail"] = "drop"
    """A box that has no part in the displayed image."""
    over_edge: Literal["clip", "drop", "fail"] = "clip"
    """A box that reaches more than a pixel beyond the displayed image. Up to a pixel is cut off in silence."""
    unknown_class: Literal["drop", "fail"] = "fail"
    """A class that is not among the labels: a slip of the pen would else cost the class its examples."""
    missing_image: Literal["drop", "fail"] = "fail"
    """Annotations of an image that is not there: mostly the folder named is another one."""
    undecodable: Literal["drop", "fail"] = "drop"
    """An image that gives no pixels."""
    unreadable: Literal["drop", "fail"] = "fail"
    """An annotation that makes no sense."""
    wrong_image: Literal["keep", "drop", "fail"] = "fail"
    """A VOC file that names another image than its own. `keep` believes the name of the file itself."""
    wrong_size: Literal["keep", "drop", "fail"] = "fail"
    """An image that is displayed in another size than its annotations say: its boxes are in another frame."""
    not_annotated: Literal["drop", "fail"] = "drop"
    """An image that nobody labelled. (A YOLO image without a text file has no objects, which is no problem.)"""
    empty_class: Literal["keep", "drop", "fail"] = "fail"
    """A class without examples in `train`, which a model could not learn. `drop` takes it out of the labels."""
    duplicate: Literal["keep", "drop", "fail"] = "keep"
    """The content of another image of the same split. `drop` keeps the first."""
    conflict: Literal["drop", "fail"] = "fail"
    """Images of equal content in different classes. `drop` drops them all."""
    leak: Literal["keep", "drop", "fail"] = "drop"
    """An image of `train` that is in `val` too, which would make figures better than the model. `train` loses it."""


class DataSpec(Spec):
    """What to train on, and what to measure on."""

    train: DatasetSpec
    val: Annotated[CocoData | VocData | YoloData | FolderData | TableData | Holdout, Field(discriminator="kind")] = (
        Field(default_factory=Holdout)
    )
    labels: list[Label] = Field(default_factory=list)
    """The classes in their order; any other is then an `unknown_class`. By default those of the data: in the order in
    which COCO's and YOLO's files declare them, else sorted."""
    on_problem: OnProblem = Field(default_factory=OnProblem)

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: list[str]) -> list[str]:
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(f"it names {', '.join(map(repr, repeated))} more than once; name each class once")
        return labels
