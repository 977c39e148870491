import base64
import json
import time

from harness import ShimTest

ECHO = "import json\ndef handler(event, context): return {'statusCode': 200, 'body': json.dumps(event)}"


def returning(code):
    return "def handler(event, context): return " + code


class Event(ShimTest):
    def event(self, shim, **kwargs):
        answer = shim.call(trigger="http", **kwargs)
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def test_all_fields(self):
        headers = [
            ("Host", "f.default.localhost:8080"),
            ("User-Agent", "test/1"),
            ("X-Forwarded-For", "203.0.113.9, 198.51.100.2"),
            ("X-Many", "a"),
            ("x-many", "b"),
            ("Cookie", "a=1; b=2"),
            ("Cookie", "c=3"),
            ("Content-Type", "application/json"),
        ]
        target = "/a%20b/%C3%A9?q=1&q=2&e=&x=a%2Bb+c&%C3%A9=%zz"
        got = self.event(self.shim(ECHO), target=target, headers=headers, body='{"x": 1}')
        now = time.time() * 1000
        context = got["requestContext"]
        self.assertTrue(now - 60_000 < context.pop("timeEpoch") <= now)
        self.assertRegex(context.pop("time"), r"^\d\d/[A-Z][a-z][a-z]/\d{4}:\d\d:\d\d:\d\d \+0000$")
        self.assertEqual(int(got["headers"].pop("content-length")), 8)
        self.assertEqual(
            got,
            {
                "version": "2.0",
                "routeKey": "$default",
                "rawPath": "/a b/é",
                "rawQueryString": "q=1&q=2&e=&x=a%2Bb+c&%C3%A9=%zz",
                "cookies": ["a=1", "b=2", "c=3"],
                "headers": {
                    "host": "f.default.localhost:8080",
                    "user-agent": "test/1",
                    "x-forwarded-for": "203.0.113.9, 198.51.100.2",
                    "x-many": "a,b",
                    "content-type": "application/json",
                },
                "queryStringParameters": {"q": "1,2", "e": "", "x": "a+b c", "é": "%zz"},
                "requestContext": {
                    "accountId": "default",
                    "apiId": "f",
                    "authentication": None,
                    "authorizer": None,
                    "domainName": "f.default.localhost",
                    "domainPrefix": "f",
                    "http": {
                        "method": "POST",
                        "path": "/a b/é",
                        "protocol": "HTTP/1.1",
                        "sourceIp": "198.51.100.2",
                        "userAgent": "test/1",
                    },
                    "requestId": "inv-1",
                    "routeKey": "$default",
                    "stage": "$default",
                },
                "body": '{"x": 1}',
                "pathParameters": None,
                "isBase64Encoded": False,
                "stageVariables": None,
            },
        )

    def test_custom_route(self):
        route = [("Lambent-Route", "GET%20%2Fusers%2F%7Bid%7D"), ("Lambent-Path-Parameters", "id=a+b%2F%C3%A9&rest=")]
        got = self.event(self.shim(ECHO), target="/users/a%20b", headers=route)
        self.assertEqual((got["routeKey"], got["requestContext"]["routeKey"]), ("GET /users/{id}",) * 2)
        self.assertEqual(got["pathParameters"], {"id": "a b/é", "rest": ""})
        self.assertNotIn("lambent-route", got["headers"])

    def test_nothing_optional(self):
        got = self.event(self.shim(ECHO), method="GET")
        self.assertEqual(
            (got["cookies"], got["queryStringParameters"], got["body"], got["isBase64Encoded"]), ([], {}, None, False)
        )
        self.assertEqual(got["requestContext"]["http"]["sourceIp"], "")

    def test_hosts(self):
        shim = self.shim(ECHO)
        for host, want in (("a.b", "a.b"), ("a.b:80", "a.b"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]")):
            got = self.event(shim, headers=[("Host", host)])
            self.assertEqual(got["requestContext"]["domainName"], want)

    def test_paths(self):
        shim = self.shim(ECHO)
        for target, want in (("/%", "/%"), ("/%4", "/%4"), ("/%2f%2B+", "//++"), ("/%ff", "/\ufffd")):
            self.assertEqual(self.event(shim, target=target)["rawPath"], want)

    def test_bodies(self):
        shim = self.shim(ECHO)
        cases = [
            ("text/plain", b"t", False),
            ("Application/JSON; charset=utf-8", b"{}", False),
            ("application/problem+json", b"{}", False),
            ("application/x-www-form-urlencoded", b"a=b", False),
            ("application/octet-stream", b"text", True),
            ("image/png", b"\x89PNG", True),
            ("text/plain", b"\xff", True),
            (None, b"text", False),
            (None, b"\xff\x00", True),
        ]
        for kind, body, is_base64 in cases:
            with self.subTest(kind=kind, body=body):
                got = self.event(shim, body=body, headers=[("Content-Type", kind)] if kind else [])
                self.assertEqual(got["isBase64Encoded"], is_base64)
                self.assertEqual(base64.b64decode(got["body"]) if is_base64 else got["body"].encode(), body)
        got = self.event(shim, body=b"x", headers=[("Content-Type", "text/plain"), ("Content-Encoding", "gzip")])
        self.assertTrue(got["isBase64Encoded"])

    def test_chunked(self):
        shim = self.shim(ECHO)
        self.assertEqual(self.event(shim, chunks=[b"one ", b"two ", b"x" * 100_000])["body"], "one two " + "x" * 100_000)
        self.assertIsNone(self.event(shim, chunks=[])["body"])


class Response(ShimTest):
    def test_values(self):
        cases = [
            ("{'statusCode': 201, 'body': 'é'}", 201, "é".encode()),
            ("{'statusCode': 204, 'body': 'dropped'}", 204, b""),
            ("{'statusCode': 304}", 304, b""),
            ("{'statusCode': 200}", 200, b""),
            ("{'statusCode': 200, 'body': None, 'headers': None, 'cookies': None}", 200, b""),
            ("{'statusCode': 200, 'body': '/wA=', 'isBase64Encoded': True}", 200, b"\xff\x00"),
            ("{'a': 1}", 200, b'{"a":1}'),
            ("'plain'", 200, b"plain"),
            ("[1, 'x']", 200, b'[1,"x"]'),
            ("None", 200, b"null"),
        ]
        for code, status, body in cases:
            with self.subTest(code):
                answer = self.shim(returning(code)).call(trigger="http")
                self.assertEqual((answer.status, answer.body), (status, body))
                self.assertEqual(answer.headers["Content-Type"], "application/json")

    def test_headers_and_cookies(self):
        headers = {"content-type": "text/plain", "X-Int": 1, "X-Bool": True, "X-Latin": "é", "Connection": "close",
                   "Content-Length": "99", "Transfer-Encoding": "chunked", "Lambent-Error": "internal", "Upgrade": "x"}  # fmt: skip
        answer = self.shim(returning(repr({"statusCode": 200, "headers": headers, "cookies": ["a=1", "b=2"], "body": "x"})))
        answer = answer.call(trigger="http")
        got = sorted((k.lower(), v) for k, v in answer.headers.items())
        self.assertEqual(
            got,
            [
                ("content-length", "1"),
                ("content-type", "text/plain"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("x-bool", "true"),
                ("x-int", "1"),
                ("x-latin", "é"),
            ],
        )

    def test_head_has_no_body(self):
        answer = self.shim(returning("{'statusCode': 200, 'body': 'four'}")).call(trigger="http", method="HEAD")
        self.assertEqual((answer.body, answer.headers["Content-Length"]), (b"", "4"))

    def test_bad_responses(self):
        cases = [
            ({"statusCode": "200"}, "statusCode is '200', not an integer"),
            ({"statusCode": True}, "statusCode is True"),
            ({"statusCode": None}, "statusCode is None"),
            ({"statusCode": 199}, "statusCode is 199"),
            ({"statusCode": 600}, "statusCode is 600"),
            ({"statusCode": 200, "body": {}}, "body is a dict, not a string; use json.dumps"),
            ({"statusCode": 200, "body": b"x"}, "base64-encode it and set isBase64Encoded"),
            ({"statusCode": 200, "body": "?", "isBase64Encoded": True}, "body is not base64"),
            ({"statusCode": 200, "body": "aGk", "isBase64Encoded": True}, "body is not base64"),
            ({"statusCode": 200, "isBase64Encoded": "true"}, "isBase64Encoded is a str"),
            ({"statusCode": 200, "body": "\ud800"}, "surrogate"),
            ({"statusCode": 200, "headers": []}, "headers is a list"),
            ({"statusCode": 200, "headers": {"a b": "c"}}, "'a b' is not a valid header name"),
            ({"statusCode": 200, "headers": {"": "c"}}, "not a valid header name"),
            ({"statusCode": 200, "headers": {"a": "b\r\nc: d"}}, "headers['a'] holds a line break"),
            ({"statusCode": 200, "headers": {"a": "b\n"}}, "line break"),
            ({"statusCode": 200, "headers": {"a": "\u20ac"}}, "no header may hold"),
            ({"statusCode": 200, "headers": {"a": ["b"]}}, "headers['a'] is a list, not a string"),
            ({"statusCode": 200, "cookies": "a=b"}, "cookies is a str, not a list"),
            ({"statusCode": 200, "cookies": ["a\r\n"]}, "cookies[0] holds a line break"),
            ({"n": {1}}, "$.n is a set"),
        ]
        for value, part in cases:
            with self.subTest(part):
                answer = self.shim(returning(repr(value))).call(trigger="http")
                self.assertEqual(answer.status, 500)
                self.check_error(answer, "bad_response", part)

    def test_events_survive_json(self):
        self.assertTrue(json.loads(self.shim(ECHO).call(trigger="http").body))
