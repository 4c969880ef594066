"""What every row of an OUT must keep, as SQL that finds the rows that do not.

Each promise is a select of (uri, detail) over the views `listed` (the index: uri, position), `images`, `tags` and
`errors`; `images` has the name of its file too. Rows are compared by what they say, never by where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchtag.types import Status


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """`sql` selects uri and detail of every violation."""

    name: str
    meaning: str
    sql: str


_STATUS = ", ".join(f"'{status}'" for status in Status)
_COUNTED_TAGS = "select uri, count(*) as n from tags group by uri"
_TAGGED = f"select uri from images where status = '{Status.TAGGED}'"
_FAILED = f"select uri from images where status = '{Status.FAILED}'"

PROMISES = (
    Promise(
        name="to_do",
        meaning="every image of the index has a row in images",
        sql="""select uri, 'position ' || position || ' is still to do' as detail
            from listed anti join images using (position)""",
    ),
    Promise(
        name="repeated",
        meaning="no position has two rows in images",
        sql="""select min(uri) as uri, 'position ' || position || ' has ' || count(*) || ' rows' as detail
            from images group by position having count(*) > 1""",
    ),
    Promise(
        name="beyond",
        meaning="images has no position that the index has not",
        sql="select uri, 'position ' || position as detail from images anti join listed using (position)",
    ),
    Promise(
        name="uri",
        meaning="the URI at a position is the index's",
        sql="""select images.uri, 'position ' || position || ' is ' || listed.uri || ' in the index' as detail
            from images join listed using (position) where images.uri <> listed.uri""",
    ),
    Promise(
        name="listed_once",
        meaning="no URI is in the index twice",
        sql="select uri, count(*) || ' times' as detail from listed group by uri having count(*) > 1",
    ),
    Promise(
        name="position",
        meaning="positions lie within those that their part's name says",
        sql="""select uri, 'position ' || position || ' in ' || file as detail from images
            where not position between file[6:17]::bigint and file[19:30]::bigint""",
    ),
    Promise(
        name="status",
        meaning=f"the status is one of {_STATUS}",
        sql=f"select uri, status as detail from images where status not in ({_STATUS})",
    ),
    Promise(
        name="num_tags",
        meaning="num_tags is the number of rows in tags",
        sql=f"""select images.uri, 'num_tags is ' || num_tags || ', tags has ' || coalesce(n, 0) as detail
            from images left join ({_COUNTED_TAGS}) using (uri) where num_tags is distinct from coalesce(n, 0)""",
    ),
    Promise(
        name="tags_of_tagged",
        meaning="only tagged images have tags",
        sql=f"""select uri, count(*) || ' tags' as detail from tags anti join ({_TAGGED}) using (uri) group by uri""",
    ),
    Promise(
        name="one_error",
        meaning="a failed image has exactly one row in errors",
        sql=f"""select uri, coalesce(n, 0) || ' rows' as detail from ({_FAILED})
            left join (select uri, count(*) as n from errors group by uri) using (uri) where coalesce(n, 0) <> 1""",
    ),
    Promise(
        name="errors_of_failed",
        meaning="no other image has one",
        sql=f"select uri, code as detail from errors anti join ({_FAILED}) using (uri)",
    ),
    Promise(
        name="duplicate",
        meaning="a duplicate, and nothing else, names the tagged image that it repeats",
        sql=f"""select uri, status || ', dup_of ' || coalesce(dup_of, 'null') as detail from images
            where coalesce(status = '{Status.DUPLICATE}', false)
                <> coalesce(dup_of in ({_TAGGED}), false) or (dup_of is not null and status <> '{Status.DUPLICATE}')""",
    ),
    Promise(
        name="kind",
        meaning="a tag is of an object, with a box, or of a class, without one",
        sql="""select uri, rank || ' of ' || model || ' is ' || kind as detail from tags
            where case kind when 'object' then (x_min + y_min + x_max + y_max) is null
                when 'class' then coalesce(x_min, y_min, x_max, y_max) is not null else true end""",
    ),
    Promise(
        name="box",
        meaning="boxes lie in the displayed image: 0 <= min <= max <= width, height",
        sql="""select uri, printf('(%g, %g, %g, %g) in %d x %d', x_min, y_min, x_max, y_max, width, height) as detail
            from tags join images using (uri) where x_min is not null and not coalesce(
                0 <= x_min and x_min <= x_max and x_max <= width and 0 <= y_min and y_min <= y_max and y_max <= height,
                false)""",
    ),
    Promise(
        name="score",
        meaning="scores lie in [0, 1]",
        sql="""select uri, score::varchar as detail from tags where not coalesce(score between 0 and 1, false)""",
    ),
    Promise(
        name="rank",
        meaning="ranks are 1, 2, 3... for an image, model and parent",
        sql="""select uri, model || coalesce(' in ' || parent, '') as detail from tags group by uri, model, parent
            having min(rank) <> 1 or max(rank) <> count(*) or count(distinct rank) <> count(*)""",
    ),
    Promise(
        name="parent",
        meaning="the parent of a tag is a box of the same image",
        sql="""select uri, parent as detail from tags where parent is not null and (uri, parent) not in
            (select (uri, model || '#' || rank) from tags where kind = 'object' and parent is null)""",
    ),
)
