"""The service's description of itself: OpenAPI 3.1, for this model and these limits."""

from __future__ import annotations

from typing import Any

from danqing.version import __version__

from .contract import Limits, Schema, Takes, fields

JSON = "application/json"
REPLY: Schema = {
    "type": "object",
    "required": ["text", "images_base64", "success", "error"],
    "properties": {
        "text": {"type": "string", "description": "The text that was drawn."},
        "images_base64": {"type": "array", "items": {"type": "string"},
                          "description": "PNG files in padded base64 of the URL-safe alphabet."},
        "success": {"type": "boolean"},
        "error": {"type": "string", "description": "Empty on success."},
        "seed": {"type": "integer", "description": "What the first picture was drawn from."},
        "ignored": {"type": "array", "items": {"type": "string"}, "description": "Fields that change nothing here."},
    },
}
STATUSES = {
    200: "Pictures; or `success` false, where the text is not Chinese and nothing translates it.",
    400: "The body is no such request; `error` names every problem.",
    401: "The token is missing or wrong.",
    404: "There is no such page, or no service of this name.",
    405: "Not with this method.",
    408: "The body or the answer took too long.",
    413: "The body is too large.",
    450: "The queue is full.",
    500: "The picture could not be drawn.",
    503: "The model is still being loaded, or the service is shutting down.",
}


def document(takes: Takes, limits: Limits, name: str | None, token: bool) -> dict[str, Any]:
    """The document, ready for JSON."""
    body = {"type": "object", "required": ["text"], "additionalProperties": False, "properties": fields(takes, limits)}
    request = {JSON: {"schema": {"$ref": "#/components/schemas/Request"}}}
    post: dict[str, Any] = {
        "summary": "Draw pictures from a text",
        "requestBody": {"required": True, "content": request},
        "responses": {str(status): _answer(about) for status, about in STATUSES.items()},
    }
    if token:
        post["security"] = [{"token": []}]
    served = "/api/predict/" + (name or "{service}")
    predict: dict[str, Any] = {"post": {**post, "operationId": "predict"}}
    if name is None:
        predict["parameters"] = [{
            "name": "service", "in": "path", "required": True,
            "schema": {"type": "string", "minLength": 1}, "description": "Any name."}]
    plain = {"text/plain": {"schema": {"type": "string"}}}
    not_yet = {"503": {"description": "Not yet.", "content": plain}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Danqing", "version": __version__,
                 "description": "The contract of PAI-EAS's text-to-image services. POST works on any path."},
        "paths": {
            served: predict,
            "/": {"get": _get("A page to try the model", {"text/html": {"schema": {"type": "string"}}}),
                  "post": {**post, "operationId": "predictAtRoot"}},
            "/health": {"get": _get("The process lives", plain)},
            "/ready": {"get": _get("The model is loaded and warm", plain, not_yet)},
            "/metrics": {"get": _get("Prometheus's text format", plain)},
            "/openapi.json": {"get": _get("This document", {JSON: {"schema": {"type": "object"}}}, not_yet)},
        },
        "components": {
            "schemas": {"Request": body, "Reply": REPLY},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "Authorization"}},
        },
    }


def _get(summary: str, content: dict[str, Any], more: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}, **(more or {})}}


def _answer(about: str) -> dict[str, Any]:
    return {"description": about, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Reply"}}}}
