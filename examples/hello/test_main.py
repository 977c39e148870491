import json
import unittest
from types import SimpleNamespace

from main import handler

CONTEXT = SimpleNamespace(aws_request_id="id-1")


def http(body=None, query=None):
    return {"requestContext": {}, "body": body, "queryStringParameters": query or {}}


class Hello(unittest.TestCase):
    def test_greets(self):
        for event, name in (
            ({}, "world"),
            ({"name": "Ada"}, "Ada"),
            (http(), "world"),
            (http(query={"name": "Ada"}), "Ada"),
            (http(body='{"name": "Ada"}'), "Ada"),
        ):
            want = {"message": f"Hello, {name}!", "invocation": "id-1"}
            self.assertEqual(handler(event, CONTEXT), want)

    def test_refuses_what_is_no_json_object(self):
        for body in ("{", "[1]", "1"):
            answer = handler(http(body=body), CONTEXT)
            self.assertEqual(answer["statusCode"], 400)
            self.assertIn("not a JSON object", json.loads(answer["body"])["message"])
