"""What an intact file is that is no image of a kind that is read, told by its first bytes."""

from pathlib import Path

_STARTS = {
    b"\xff\x4f\xff\x51": "a JPEG 2000 image", b"\0\0\0\x0cjP  ": "a JPEG 2000 image", b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image", b"8BPS": "a Photoshop image", b"%PDF": "a PDF document",
    b"v/1\x01": "an OpenEXR image", b"#?RADIANCE": "a Radiance HDR image", b"SIMPLE  =": "a FITS file",
    b"\x89HDF\r\n": "an HDF5 file", b"CDF": "a NetCDF file", b"\x93NUMPY": "a NumPy array", b"qoif": "a QOI image",
    b"DDS ": "a DDS texture", b"\0\0\1\0": "an icon", b"gimp xcf": "a GIMP image", b"AT&TFORM": "a DjVu document",
    b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"<svg": "an SVG drawing", b"<?xml": "an XML text",
    b"<!DOCTYPE": "a web page", b"<!doctype": "a web page", b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, whose image was not fetched (git lfs pull)",
    **{f"P{digit}".encode() + space: "a PNM image" for digit in range(1, 8) for space in (b"\n", b" ", b"\r\n")},
}  # fmt: skip
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"crx ": "a raw photo of Canon's"}
_HEIF = "a HEIF image"
_LONGEST = 132


def kind_of_file(path: Path | str) -> str | None:
    """Such as "a JPEG 2000 image"; None if the bytes say nothing, or there is no such file."""
    try:
        with open(path, "rb") as file:
            start = file.read(_LONGEST)
    except OSError:
        return None
    if not start:
        return "an empty file"
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        return _BRANDS.get(brand, _HEIF if brand[:2] in (b"he", b"mi", b"ms") else "a video")
    if start[128:132] == b"DICM":
        return "a DICOM image"
    return next((name for first, name in _STARTS.items() if start.startswith(first)), None)
