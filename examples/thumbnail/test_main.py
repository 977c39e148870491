import base64
import io
import pathlib
import unittest

from PIL import Image

from main import handler

PHOTO = pathlib.Path(__file__).with_name("testdata") / "photo.jpg"


def call(body, **query):
    return handler({"body": base64.b64encode(body).decode(), "isBase64Encoded": True, "queryStringParameters": query}, None)


class Thumbnail(unittest.TestCase):
    def test_makes_a_png_of_that_width(self):
        for query, size in (({}, (200, 150)), ({"width": "64"}, (64, 48)), ({"width": "2000"}, (640, 480))):
            answer = call(PHOTO.read_bytes(), **query)
            self.assertEqual((answer["statusCode"], answer["headers"]["content-type"]), (200, "image/png"))
            picture = Image.open(io.BytesIO(base64.b64decode(answer["body"])))
            self.assertEqual((picture.format, picture.size), ("PNG", size))

    def test_refuses_what_it_cannot_do(self):
        for body, query, status in (
            (b"no picture", {}, 415),
            (PHOTO.read_bytes()[:1000], {}, 415),
            (b"", {}, 415),
            (PHOTO.read_bytes(), {"width": "0"}, 400),
            (PHOTO.read_bytes(), {"width": "wide"}, 400),
            (PHOTO.read_bytes(), {"width": "9999"}, 400),
        ):
            self.assertEqual(call(body, **query)["statusCode"], status, query)
