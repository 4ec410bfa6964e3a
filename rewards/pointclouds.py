"""Point clouds: reading files (.ply, KITTI's .bin, .npy) and preparing scenes as LiDiff's evaluation does. Metres, float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

MAX_RANGE = 50.0  # metres; LiDiff's
HEIGHTS = (-4.0, 4.4)  # metres over the sensor, of the ground truth only; LiDiff's
VIEW_VOXEL = 10.0  # metres; LiDiff's
READERS = ".ply, .bin (KITTI: float32 x, y, z, reflectance) and .npy"
PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip


def read(sample: Any) -> np.ndarray:
    """A file or an array (N, 3 or more columns) -> its points (N, 3), float64.

    Errors: ValueError for a file of another kind, a broken one, an array of another shape, no points, or coordinates that are not finite;
    OSError where a file cannot be opened.
    """
    if isinstance(sample, str | Path):
        path = Path(sample)
        if path.suffix.lower() not in (".ply", ".bin", ".npy"):
            raise ValueError(f"'{path}': a point cloud is read from {READERS}")
        points = {".ply": _ply, ".bin": _kitti, ".npy": lambda file: np.load(file, allow_pickle=False)}[path.suffix.lower()](path)
        where = f"'{path}'"
    else:
        points, where = np.asarray(sample), "a point cloud"
    if points.ndim != 2 or points.shape[1] < 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"{where} is (N, 3 or more) numbers, got {points.dtype} {points.shape}")
    points = points[:, :3].astype(np.float64)
    if not len(points):
        raise ValueError(f"{where} has no points")
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points).all(1)).sum())
        raise ValueError(f"{where}: {bad} of {len(points)} points are not finite; leave them out first")
    return points


def _kitti(path: Path) -> np.ndarray:
    values = np.fromfile(path, dtype="<f4")
    if path.stat().st_size % 16:
        raise ValueError(f"'{path}' has {path.stat().st_size} bytes; KITTI's scans are float32 x, y, z, reflectance, 16 bytes a point")
    return values.reshape(-1, 4)


def _ply(path: Path) -> np.ndarray:
    """x, y, z of the vertices of a PLY file: ascii or binary, either byte order; other properties and other elements are skipped."""
    with open(path, "rb") as file:
        encoding, elements = _ply_header(file, path)
        for name, count, properties in elements:
            lists = [text for kind, text in properties if kind is None]
            if lists and (name == "vertex" or encoding != "ascii"):
                raise ValueError(f"'{path}': element '{name}' has a list ('{lists[0]}') at or before the vertices, which is not read here")
            if name == "vertex":
                return _ply_vertices(file, path, encoding, count, properties)
            if encoding == "ascii":
                for _ in range(count):
                    file.readline()
            else:
                file.seek(count * np.dtype([(text, kind) for kind, text in properties]).itemsize, 1)
    raise ValueError(f"'{path}' has no vertices")


def _ply_vertices(file, path: Path, encoding: str, count: int, properties: list[tuple[str | None, str]]) -> np.ndarray:
    names = [text for _, text in properties]
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(f"'{path}': its vertices have {', '.join(names) or 'no properties'}, and x, y, z are needed")
    if encoding == "ascii":
        rows = [line.split() for line in (file.readline() for _ in range(count)) if line.strip()]
        whole = [row for row in rows if len(row) == len(names)]
        columns = [np.array([row[names.index(axis)] for row in whole], dtype=np.float64) for axis in "xyz"]
    else:
        kind = np.dtype([(text, ("<" if encoding == "binary_little_endian" else ">") + code) for code, text in properties])
        content = file.read(count * kind.itemsize)
        whole = np.frombuffer(content, kind, count=len(content) // kind.itemsize)
        columns = [whole[axis].astype(np.float64) for axis in "xyz"]
    if len(whole) != count:
        raise ValueError(f"'{path}' ends early or is damaged: {count} vertices were announced, {len(whole)} could be read")
    return np.stack(columns, axis=1)


def _ply_header(file, path: Path) -> tuple[str, list[tuple[str, int, list[tuple[str | None, str]]]]]:
    """The encoding, and of each element its name, count and properties (numpy type or None for a list, name)."""
    if file.readline().strip() != b"ply":
        raise ValueError(f"'{path}' does not start with 'ply', so it is no PLY file")
    encoding, elements = "", []
    while line := file.readline():
        match line.decode("ascii", "replace").split():
            case ["end_header"]:
                if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
                    raise ValueError(f"'{path}': PLY format '{encoding}' is not ascii, binary_little_endian or binary_big_endian")
                return encoding, elements
            case ["format", encoding, _]:
                pass
            case ["element", name, count] if count.isdigit():
                elements.append((name, int(count), []))
            case ["property", "list", _, _, name] if elements:
                elements[-1][2].append((None, name))
            case ["property", kind, name] if kind in PLY_TYPES and elements:
                elements[-1][2].append((PLY_TYPES[kind], name))
            case ["comment" | "obj_info", *_] | []:
                pass
            case _:
                raise ValueError(f"'{path}': the PLY header has a line that is not understood: {line.decode('ascii', 'replace').strip()}")
    raise ValueError(f"'{path}': the PLY header has no end_header")


def within(points: np.ndarray, max_range: float = MAX_RANGE) -> np.ndarray:
    """The points nearer to the sensor than ``max_range`` metres: how LiDiff prepares a prediction that was loaded from a file."""
    return points[np.linalg.norm(points, axis=1) < max_range]


def ground_truth(map_points: np.ndarray, pose: np.ndarray, scan: np.ndarray, max_range: float = MAX_RANGE) -> np.ndarray:
    """The complete scene that a completed scan is compared with, as PRBonn/LiDiff prepares it.

    Of the map, the points within ``max_range`` of the pose, moved to the sensor's frame, with heights strictly inside (-4, 4.4) m, and of
    these the ones in 10 m voxels that the scan occupies. The voxels start half a voxel below the scan's smallest coordinates, as open3d
    lays them (from its documentation's description; not compared with open3d, which does not run here).

    Args:
        map_points: (M, 3) of the whole sequence, in the world's frame. pose: (4, 4), sensor to world.
        scan: (N, 3), the input scan in the sensor's frame; cropped to ``max_range`` here.
    """
    near = map_points[np.linalg.norm(map_points - pose[:3, 3], axis=1) < max_range]
    local = (np.c_[near, np.ones(len(near))] @ np.linalg.inv(pose).T)[:, :3]
    local = local[(local[:, 2] > HEIGHTS[0]) & (local[:, 2] < HEIGHTS[1])]
    scan = within(scan, max_range)
    if not len(scan):
        raise ValueError(f"the input scan has no point within {max_range} m of the sensor")
    origin = scan.min(0) - VIEW_VOXEL / 2
    occupied = np.unique(np.floor((scan - origin) / VIEW_VOXEL).astype(np.int64), axis=0)
    cells = np.floor((local - origin) / VIEW_VOXEL).astype(np.int64)
    seen = {tuple(cell) for cell in occupied.tolist()}
    return local[[tuple(cell) in seen for cell in cells.tolist()]] if len(local) else local
