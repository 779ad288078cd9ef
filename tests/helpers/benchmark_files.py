"""Small files of nine benchmarks, in the layouts of VLMEvalKit (TSV) and of the original repositories (Parquet).

    write_tsv(folder, "mmvp")       # the path of MMVP.tsv
    write_parquet(folder, "mmvp")   # a file, or the folder of several

Both have the same questions; `ANSWERS` has the right answers in order. Pictures are drawn from the question's number.
"""

import base64
import csv
import io
import json

import numpy as np
from PIL import Image

NAMES = {
    "mme-realworld-lite": "MME-RealWorld-Lite",
    "realworldqa": "RealWorldQA",
    "hrbench4k": "HRBench4K",
    "hrbench8k": "HRBench8K",
    "vstar": "VStarBench",
    "mmvp": "MMVP",
    "blink": "BLINK",
    "hallusionbench": "HallusionBench",
    "mmmu": "MMMU_DEV_VAL",
}
ANSWERS = {
    "mme-realworld-lite": ["A", "E", "B", "A"],
    "realworldqa": ["B", "A", "A"],
    "hrbench4k": ["A", "B", "D", "A", "C", "D", "B", "C"],
    "hrbench8k": ["A", "B", "D", "A", "C", "D", "B", "C"],
    "vstar": ["C", "A", "B"],
    "mmvp": ["A", "B", "A", "B"],
    "blink": ["B", "A", "D"],
    "hallusionbench": ["Yes", "No", "No", "Yes"],
    "mmmu": ["B", "42", "A"],
}
MME = ("Perception/Monitoring", "Perception/Remote Sensing", "Reasoning/Monitoring", "Reasoning/Autonomous_Driving")
BLINK = (("Counting", 1), ("Jigsaw", 3), ("Jigsaw", 4))
HALLUSION = (
    ("VD", "figure", "1", "0", "0", "0"),
    ("VD", "figure", "1", "0", "0", "1"),
    ("VS", "map", "1", "0", "1", "0"),
    ("VS", "map", "2", "0", "2", "0"),
)
MMMU = (("Art", "Art & Design"), ("Math", "Science"), ("Math", "Science"))
INSTRUCTION = "Please answer directly with only the letter of the correct option and nothing else."


def png(number, size=(40, 30)):
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def text64(number):
    return base64.b64encode(png(number)).decode()


def cell(number, there=True):
    return {"bytes": png(number), "path": f"{number}.png"} if there else None


def options(benchmark, number):
    count = {"mmvp": 2, "mme-realworld-lite": 5, "realworldqa": 3}.get(benchmark, 4)
    return {"ABCDE"[n]: f"thing {number} {n}" for n in range(count)}


def question(number):
    return f"Invented question {number // 2}?"


def tsv_rows(benchmark):
    for n, answer in enumerate(ANSWERS[benchmark]):
        row = {"index": str(n), "image": text64(n), "question": question(n), "answer": answer}
        if benchmark == "mme-realworld-lite":
            texts = [f"({letter}) {text}" for letter, text in options(benchmark, n).items()]
            yield row | {"multi-choice options": repr(texts), "category": MME[n], "l2-category": "Car/attribute/color"}
        elif benchmark == "hallusionbench":
            category, sub, *_ = HALLUSION[n]
            yield row | {"index": "_".join(HALLUSION[n]), "category": category, "l2-category": f"{category}_{sub}"}
        elif benchmark == "mmmu":
            choices = {} if answer == "42" else options(benchmark, n)
            text = f"<image 2> beside <image 1>: {question(n)}" if n == 2 else f"{question(n)} <image 1>"
            images = repr([text64(2), text64(12)]) if n == 2 else row["image"]
            facts = {"category": MMMU[n][0], "l2-category": MMMU[n][1], "split": "validation"}
            yield row | {"question": text, "image": images, **{c: choices.get(c, "") for c in "ABCD"}, **facts}
        else:
            row |= {c: options(benchmark, n).get(c, "") for c in ("AB" if benchmark == "mmvp" else "ABCD")}
            if benchmark.startswith("hrbench"):
                row |= {"category": "single" if n % 2 else "cross", "cycle_category": str(n // 2)}
            elif benchmark == "vstar":
                row |= {"category": "relative_position" if n else "direct_attributes"}
            elif benchmark == "blink":
                task, count = BLINK[n]
                row |= {
                    "category": task,
                    "image": repr([text64(n + 10 * k) for k in range(count)]) if count > 1 else text64(n),
                }
            elif benchmark == "mmvp":
                row |= {"index": str(n + 1), "image": "1" if n == 1 else row["image"]}
            yield row
    if benchmark == "mmmu":
        yield row | {"index": "9", "split": "dev"}


def write_tsv(folder, benchmark, rows=None, name=None):
    """Write a TSV, of other rows if they are given; return its path."""
    path = folder / f"{name or NAMES[benchmark]}.tsv"
    rows = list(tsv_rows(benchmark)) if rows is None else rows
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet_rows(benchmark):
    for n, row in enumerate(tsv_rows(benchmark)):
        choices = {c: row[c] for c in "ABCD" if row.get(c)}
        if benchmark == "mme-realworld-lite":
            given = {
                "bytes": text64(n),
                "multi-choice options": [f"({c}) {t}" for c, t in options(benchmark, n).items()],
            }
            yield {k: row[k] for k in ("index", "question", "answer", "category", "l2-category")} | given
        elif benchmark == "realworldqa":
            lines = "\n".join(f"{c}. {t}" for c, t in choices.items())
            yield {"image": cell(n), "question": f"{row['question']}\n{lines}\n{INSTRUCTION}", "answer": row["answer"]}
        elif benchmark.startswith("hrbench"):
            yield row
        elif benchmark == "vstar":
            text = f"{row['question']}\n" + "\n".join(f"({c}) {t}" for c, t in choices.items())
            yield {
                "image": cell(n),
                "text": text,
                "category": row["category"],
                "label": row["answer"],
                "question_id": str(n),
            }
        elif benchmark == "mmvp":
            wording = {"Question": row["question"], "Options": f"(a) {choices['A']} (b) {choices['B']}"}
            image = cell(0 if n == 1 else n)
            yield {"Index": n + 1, **wording, "Correct Answer": f"({row['answer'].lower()})", "image": image}
        elif benchmark == "blink":
            task, count = BLINK[n]
            images = {f"image_{k + 1}": cell(n + 10 * k, k < count) for k in range(4)}
            texts = list(choices.values())
            yield {
                "idx": f"val_{task}_{n}",
                "question": row["question"],
                "sub_task": task,
                **images,
                "choices": texts,
                "answer": f"({row['answer']})",
            }
        elif benchmark == "hallusionbench":
            names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
            given = {"question": row["question"], "gt_answer": "1" if row["answer"] == "Yes" else "0"}
            yield dict(zip(names, HALLUSION[n], strict=True)) | given | {"image": cell(n)}
        elif row["split"] == "validation":
            images = {f"image_{k + 1}": cell(n + 10 * k, k < (2 if n == 2 else 1)) for k in range(7)}
            kind = "multiple-choice" if choices else "open"
            facts = {
                "id": f"validation_{row['category']}_{n}",
                "question": row["question"],
                "options": repr(list(choices.values())),
            }
            yield facts | images | {"answer": row["answer"], "question_type": kind}


FILES = {
    "mme-realworld-lite": "data/train-00000-of-00001",
    "realworldqa": "data/test-{n}-of-00002",
    "hrbench4k": "hr_bench_4k",
    "hrbench8k": "hr_bench_8k",
    "vstar": "data/test-00000-of-00001",
    "mmvp": "data/train-00000-of-00001",
    "blink": "{task}/val-00000-of-00001",
    "hallusionbench": "data/image-00000-of-00001",
    "mmmu": "data/validation-00000-of-00001",
}


def write_parquet(folder, benchmark):
    """Write the Parquet files into a folder, and return the folder; of HR-Bench, the file."""
    import pyarrow
    import pyarrow.parquet

    root, parts = folder / benchmark, {}
    for n, row in enumerate(parquet_rows(benchmark)):
        name = FILES[benchmark].format(n=f"{n // 2:05d}", task=row.get("sub_task"))
        parts.setdefault(name, []).append(row)
    for name, rows in parts.items():
        path = root / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.Table.from_pylist(rows)
        fields = [field.with_type(image) if field.name.startswith("image_") else field for field in table.schema]
        features = {"info": {"features": {field.name: {} for field in fields}}}
        schema = pyarrow.schema(fields, metadata={"huggingface": json.dumps(features)})
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path)
    return path if benchmark.startswith("hrbench") else root
