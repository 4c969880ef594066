"""The rules that the rows of an output must follow, each as SQL that finds the rows that break it.

A rule is a select of (uri, detail) over the tables `listed` (the index: uri, position), `images`, `tags` and `errors`;
these three also have the name of each row's `file`. Rows are compared by their values, never by their order.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchtag.types import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRule:
    """A rule about rows: its name, its meaning, and SQL that selects uri and detail of each violation."""

    name: str
    meaning: str
    sql: str


_STATUS = ", ".join(f"'{status}'" for status in Status)
_COUNTED_TAGS = "select uri, count(*) as n from tags group by uri"
_TAGGED = f"select uri from images where status = '{Status.TAGGED}'"
_FAILED = f"select uri from images where status = '{Status.FAILED}'"

ROW_RULES = (
    RowRule(
        name="to_do",
        meaning="every image of the index has a row in images",
        sql="""select uri, 'position ' || position || ' is still to do' as detail
            from listed anti join images using (position)""",
    ),
    RowRule(
        name="repeated",
        meaning="no position has two rows in images",
        sql="""select min(uri) as uri, 'position ' || position || ' has ' || count(*) || ' rows' as detail
            from images group by position having count(*) > 1""",
    ),
    RowRule(
        name="beyond",
        meaning="every position in images is in the index",
        sql="select uri, 'position ' || position as detail from images anti join listed using (position)",
    ),
    RowRule(
        name="uri",
        meaning="the URI at each position is the same as in the index",
        sql="""select images.uri, 'position ' || position || ' is ' || listed.uri || ' in the index' as detail
            from images join listed using (position) where images.uri <> listed.uri""",
    ),
    RowRule(
        name="listed_once",
        meaning="no URI is in the index twice",
        sql="select uri, count(*) || ' times' as detail from listed group by uri having count(*) > 1",
    ),
    RowRule(
        name="position",
        meaning="positions lie in the range that is in the name of their part",
        sql="""select uri, 'position ' || position || ' in ' || file as detail from images
            where not position between file[6:17]::bigint and file[19:30]::bigint""",
    ),
    RowRule(
        name="status",
        meaning=f"the status is one of {_STATUS}",
        sql=f"select uri, status as detail from images where status not in ({_STATUS})",
    ),
    RowRule(
        name="num_tags",
        meaning="num_tags is the number of rows in tags",
        sql=f"""select images.uri, 'num_tags is ' || num_tags || ', tags has ' || coalesce(n, 0) as detail
            from images left join ({_COUNTED_TAGS}) using (uri) where num_tags is distinct from coalesce(n, 0)""",
    ),
    RowRule(
        name="tags_of_tagged",
        meaning="only tagged images have tags",
        sql=f"""select uri, count(*) || ' tags' as detail from tags anti join ({_TAGGED}) using (uri) group by uri""",
    ),
    RowRule(
        name="one_error",
        meaning="a failed image has exactly one row in errors",
        sql=f"""select uri, coalesce(n, 0) || ' rows' as detail from ({_FAILED})
            left join (select uri, count(*) as n from errors group by uri) using (uri) where coalesce(n, 0) <> 1""",
    ),
    RowRule(
        name="errors_of_failed",
        meaning="only failed images have rows in errors",
        sql=f"select uri, code as detail from errors anti join ({_FAILED}) using (uri)",
    ),
    RowRule(
        name="duplicate",
        meaning="a duplicate names the tagged image that it repeats, and other images name none",
        sql=f"""select uri, status || ', dup_of ' || coalesce(dup_of, 'null') as detail from images
            where coalesce(status = '{Status.DUPLICATE}', false)
                <> coalesce(dup_of in ({_TAGGED}), false) or (dup_of is not null and status <> '{Status.DUPLICATE}')""",
    ),
    RowRule(
        name="kind",
        meaning="a tag is of kind object and has a box, or of kind class and has none",
        sql="""select uri, rank || ' of ' || model || ' is ' || kind as detail from tags
            where case kind when 'object' then (x_min + y_min + x_max + y_max) is null
                when 'class' then coalesce(x_min, y_min, x_max, y_max) is not null else true end""",
    ),
    RowRule(
        name="box",
        meaning="boxes lie in the displayed image: 0 <= min <= max <= width, height",
        sql="""select uri, printf('(%g, %g, %g, %g) in %d x %d', x_min, y_min, x_max, y_max, width, height) as detail
            from tags join images using (uri) where x_min is not null and not coalesce(
                0 <= x_min and x_min <= x_max and x_max <= width and 0 <= y_min and y_min <= y_max and y_max <= height,
                false)""",
    ),
    RowRule(
        name="score",
        meaning="scores lie in [0, 1]",
        sql="""select uri, score::varchar as detail from tags where not coalesce(score between 0 and 1, false)""",
    ),
    RowRule(
        name="rank",
        meaning="ranks are 1, 2, 3... for each image, model and parent",
        sql="""select uri, model || coalesce(' in ' || parent, '') as detail from tags group by uri, model, parent
            having min(rank) <> 1 or max(rank) <> count(*) or count(distinct rank) <> count(*)""",
    ),
    RowRule(
        name="parent",
        meaning="the parent of a tag is a box of the same image",
        sql="""select uri, parent as detail from tags where parent is not null and (uri, parent) not in
            (select (uri, model || '#' || rank) from tags where kind = 'object' and parent is null)""",
    ),
)
"""All rules about rows, in the order in which they are reported."""
