"""Images a second of the classifiers: decoded in the sandbox, cut, and scored, in batches and one by one.

    PYTHONPATH=tests python benchmarks/scoring.py [--images 200] [--threads 1]

One process, as a worker process does it: 16 images wait at a time. `nsfw` is the model of the extra. The CLIP model has
the shape of ViT-B/32 (12 layers, 768 wide, 224 pixels, 88 million weights) and random weights, which cost the same.
Rates are those of a core: images a second of CPU, which other programs on the machine change little.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import resource
import tempfile
import time
from contextlib import aclosing
from pathlib import Path

import numpy as np
import photographs
import tiny_models as onnx
from tiny_models import FLOAT, INT64, field, node

from pixcrawler_worker.classifiers.nsfw import Nsfw
from pixcrawler_worker.classifiers.protocol import BatchClassifier, ClassifiedJob, ClassifierConfig
from pixcrawler_worker.classifiers.relevance import Relevance
from pixcrawler_worker.inspection.decoder import Decoder
from pixcrawler_worker.inspection.limits import Limits
from pixcrawler_worker.validate import batches
from pixcrawler_worker.validate.batches import BatchScorer

WIDTH, LAYERS, HEADS, PATCHES, EMBEDDED = 768, 12, 12, 49, 512
_READERS = 16
_CHANCE = np.random.default_rng(1)


def weights(name: str, *shape: int) -> bytes:
    """A tensor of random numbers, as large as those of a trained model."""
    numbers = _CHANCE.standard_normal(shape, np.float32) * np.float32(0.02)
    sizes = b"".join(field(1, size) for size in shape)
    return sizes + field(2, FLOAT) + field(8, name) + field(9, numbers.tobytes())


def shape_of(name: str, *sizes: int) -> bytes:
    """A tensor of sizes, for Reshape."""
    return field(1, len(sizes)) + field(2, INT64) + field(8, name) + field(9, np.array(sizes, np.int64).tobytes())


def vision_transformer() -> bytes:
    """The image encoder of ViT-B/32 with random weights."""
    nodes = [
        node("Conv", ["pixel_values", "patch"], "patches", kernel_shape=[32, 32], strides=[32, 32]),
        node("Reshape", ["patches", "as_rows"], "rows"),
        node("Transpose", ["rows"], "tokens", perm=[0, 2, 1]),
        node("Add", ["tokens", "positions"], "x0"),
    ]
    tensors = [
        weights("patch", WIDTH, 3, 32, 32),
        weights("positions", PATCHES, WIDTH),
        weights("project", WIDTH, EMBEDDED),
        weights("scale", WIDTH),
        weights("bias", WIDTH),
        shape_of("as_rows", 0, WIDTH, PATCHES),
        shape_of("as_heads", 0, PATCHES, HEADS, WIDTH // HEADS),
        shape_of("as_tokens", 0, PATCHES, WIDTH),
    ]
    for at in range(LAYERS):
        x, n = f"x{at}", f"l{at}_"
        nodes.append(node("LayerNormalization", [x, "scale", "bias"], n + "norm"))
        for part in "qkv":
            tensors.append(weights(n + "w" + part, WIDTH, WIDTH))
            nodes += [
                node("MatMul", [n + "norm", n + "w" + part], n + part + "0"),
                node("Reshape", [n + part + "0", "as_heads"], n + part + "1"),
                node("Transpose", [n + part + "1"], n + part, perm=[0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]),
            ]
        tensors += [weights(n + "out", WIDTH, WIDTH), weights(n + "up", WIDTH, 4 * WIDTH)]
        tensors.append(weights(n + "down", 4 * WIDTH, WIDTH))
        nodes += [
            node("MatMul", [n + "q", n + "k"], n + "weights"),
            node("Softmax", [n + "weights"], n + "attention", axis=3),
            node("MatMul", [n + "attention", n + "v"], n + "heads"),
            node("Transpose", [n + "heads"], n + "back", perm=[0, 2, 1, 3]),
            node("Reshape", [n + "back", "as_tokens"], n + "joined"),
            node("MatMul", [n + "joined", n + "out"], n + "attended"),
            node("Add", [x, n + "attended"], n + "mid"),
            node("LayerNormalization", [n + "mid", "scale", "bias"], n + "norm2"),
            node("MatMul", [n + "norm2", n + "up"], n + "wide"),
            node("Sigmoid", [n + "wide"], n + "gate"),
            node("Mul", [n + "wide", n + "gate"], n + "active"),
            node("MatMul", [n + "active", n + "down"], n + "narrow"),
            node("Add", [n + "mid", n + "narrow"], f"x{at + 1}"),
        ]
    nodes += [
        node("ReduceMean", [f"x{LAYERS}"], "pooled", axes=[1], keepdims=0),
        node("MatMul", ["pooled", "project"], "image_embeds"),
    ]
    return onnx.model(
        nodes,
        [onnx.value_info("pixel_values", FLOAT, ("batch", 3, 224, 224))],
        [onnx.value_info("image_embeds", FLOAT, ("batch", EMBEDDED))],
        tensors,
        operators=17,
    )


def write_clip(folder: Path) -> None:
    """Write a CLIP model of the size of ViT-B/32, with a text encoder of a few numbers."""
    onnx.write_clip(folder, size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    (folder / "onnx" / "vision_model.onnx").write_bytes(vision_transformer())
    (folder / "onnx" / "text_model.onnx").write_bytes(onnx.text_encoder(onnx.vectors(EMBEDDED)))


def clip(folder: Path, threads: int) -> BatchClassifier:
    """Return the classifier of a model that another process writes, whose memory does not count here."""
    writer = multiprocessing.get_context("spawn").Process(target=write_clip, args=(folder,))
    writer.start()
    writer.join()
    config = ClassifierConfig(clip_model=str(folder), threads=threads)
    job = ClassifiedJob(labels=["red"], classes=["red", "blue"], parameters={"templates": ("a photo of {label}",)})
    return Relevance.open(config, job)


async def score(classifier: BatchClassifier, bodies: list[bytes]) -> BatchScorer:
    """Score images as a validation does: some wait while others are decoded."""
    scorer = BatchScorer(classifier, seconds=20)
    waiting = iter(bodies)
    async with aclosing(Decoder(Limits())) as decoder:

        async def score_next() -> None:
            for body in waiting:
                found = await scorer.score(await decoder.crop(body, scorer.crop), "red")
                assert not isinstance(found, str), found

        await decoder.inspect(bodies[0])
        await asyncio.gather(*(score_next() for _ in range(_READERS)))
    scorer.close()
    return scorer


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    bodies = list(itertools.islice(itertools.cycle(photographs.jpegs(120_000, distinct=32)), arguments.images))
    print(f"before: {peak() / 1e6:.0f} MB at most")
    nsfw = Nsfw.open(ClassifierConfig(threads=arguments.threads), ClassifiedJob())
    report("nsfw", nsfw, bodies)
    del nsfw
    with tempfile.TemporaryDirectory() as folder:
        report("relevance, ViT-B/32", clip(Path(folder), arguments.threads), bodies)


def report(name: str, classifier: BatchClassifier, bodies: list[bytes]) -> None:
    """Print the rates of a classifier."""
    pixels = np.zeros((batches.MAX_BATCH, classifier.crop.height, classifier.crop.width, 3), np.uint8)
    for size in (1, 4, batches.MAX_BATCH):
        rounds = 48 // size
        begun = time.process_time()
        for _ in range(rounds):
            classifier.scores(pixels[:size], ["red"] * size)
        print(
            f"{name}: the model alone, {size} at a time: {rounds * size / (time.process_time() - begun):.1f} images/s"
        )
    begun, cpu = time.perf_counter(), time.process_time()
    scorer = asyncio.run(score(classifier, bodies))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{name}: decoded, cut and scored: {len(bodies) / cpu:.1f} images/s of a core without the decoder,"
        f" {len(bodies) / seconds:.1f} in real time; {scorer.images / scorer.batches:.1f} images a batch;"
        f" {peak() / 1e6:.0f} MB at most; decoders so far {children.ru_utime + children.ru_stime:.1f} s"
    )


def peak() -> int:
    """Return the bytes of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
