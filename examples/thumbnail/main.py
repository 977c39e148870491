"""Makes a smaller picture: a JPEG, PNG or any that Pillow reads in the body, its width in ?width=, a PNG out."""

import base64
import io

from PIL import Image, UnidentifiedImageError

MAX_WIDTH = 2000


def handler(event, context):
    wanted = event["queryStringParameters"].get("width", "200")
    if not wanted.isdecimal() or not 1 <= int(wanted) <= MAX_WIDTH:
        return refuse(400, f"width: {wanted!r} is not between 1 and {MAX_WIDTH}")
    body = event.get("body") or ""
    raw = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    try:
        picture = Image.open(io.BytesIO(raw))
        picture.thumbnail((int(wanted), 10 * MAX_WIDTH))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        return refuse(415, f"the body is no picture that can be read: {error}")
    print("made", picture.size, "of", len(raw), "bytes of", picture.format)
    out = io.BytesIO()
    picture.convert("RGBA" if "transparency" in picture.info or picture.mode in ("RGBA", "LA") else "RGB").save(out, "PNG", optimize=True)
    return {
        "statusCode": 200,
        "headers": {"content-type": "image/png"},
        "body": base64.b64encode(out.getvalue()).decode(),
        "isBase64Encoded": True,
    }


def refuse(status, message):
    return {"statusCode": status, "headers": {"content-type": "text/plain"}, "body": message + "\n"}
