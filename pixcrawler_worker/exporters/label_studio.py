"""Tasks for Label Studio: images with their class as a prediction."""

import json
from collections.abc import Iterator
from typing import ClassVar
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pixcrawler_worker.domain.list_columns import TEXT
from pixcrawler_worker.exporters.one_folder import Images
from pixcrawler_worker.exporters.protocol import Dataset, Entry, Layout, Sample
from pixcrawler_worker.exporters.spool import Spool

#: Names of the tags in the labeling configuration, to which predictions refer.
_CHOICE, _IMAGE = "choice", "image"


class LabelStudio(Layout):
    """`images/<file>`, `tasks.json` to import, and `label_config.xml`, the labeling configuration of the project.

    A task shows the image from its source URL, because Label Studio opens URLs, not files of an archive. An image
    without a source URL gets a URL of Label Studio's local storage, which serves the image if the archive is unpacked
    in LOCAL_FILES_DOCUMENT_ROOT. `file_name` is the path of the image in the archive. Captions are
    shown below the images.
    """

    summary: ClassVar[str] = "tasks with the class as a prediction: Label Studio"
    # The first one has the labeling configuration.
    needs_all_archives: ClassVar[bool] = True

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        self._images = Images(dataset)
        self._tasks = Spool()

    def add(self, sample: Sample) -> tuple[str, Iterator[Entry]]:
        """Return the path of the image, and the image."""
        path = self._images.path(sample)
        url = sample.row["source_url"] or f"/data/local-files/?d={quote(path)}"
        result = {
            "from_name": _CHOICE,
            "to_name": _IMAGE,
            "type": "choices",
            "value": {"choices": [sample.label]},
        }
        task = {
            "data": {_IMAGE: url, "file_name": path, **sample.row},
            "predictions": [{"model_version": "pixcrawler", "result": [result]}],
        }
        start = ",\n" if self._tasks.size else "[\n"
        self._tasks.write(f"{start}{json.dumps(task, ensure_ascii=False)}".encode())
        return path, iter([Entry(path, sample.body)])

    def close(self) -> Iterator[Entry]:
        """Return the tasks; in the first archive also the labeling configuration."""
        self._tasks.write(b"\n]\n" if self._tasks.size else b"[]\n")
        part = f"-part-{self._dataset.part:05d}" if self._dataset.parts > 1 else ""
        yield Entry(f"tasks{part}.json", self._tasks)
        if self._dataset.part == 0:
            yield Entry("label_config.xml", _config(self._dataset))


def _config(dataset: Dataset) -> bytes:
    choices = "".join(f"    <Choice value={quoteattr(label)}/>\n" for label in dataset.labels)
    text = f'  <Text name="{TEXT}" value="${TEXT}"/>\n' if TEXT in dataset.columns else ""
    return (
        f'<View>\n  <Image name="{_IMAGE}" value="${_IMAGE}"/>\n{text}'
        f'  <Choices name="{_CHOICE}" toName="{_IMAGE}" choice="single">\n{choices}  </Choices>\n</View>\n'
    ).encode()
