"""Greets. The name comes from the query or the JSON body of an HTTP request, or from a direct payload."""

import json


def handler(event, context):
    if "requestContext" not in event:
        return greet(event, context)
    try:
        asked = {**json.loads(event["body"] or "{}"), **event["queryStringParameters"]}
    except (ValueError, TypeError):
        return {"statusCode": 400, "body": json.dumps({"message": "the body is not a JSON object"})}
    return greet(asked, context)


def greet(asked, context):
    name = asked.get("name", "world")
    print("greeting", name)
    return {"message": f"Hello, {name}!", "invocation": context.aws_request_id}
