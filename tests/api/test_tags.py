# SPDX-License-Identifier: Apache-2.0
"""Tags (api.md 14)."""
import time

from harness import Server, test

NONE = {"tags": {}, "tagsLastUpdatedAt": None}


def put(b, tags):
    return b.request("PUT", "/tags", tags)


@test
def tags_are_replaced_as_a_whole_and_outlive_the_daemon():
    with Server() as s:
        b = s.create()
        assert b.request("GET", "/tags").expect(200).json() == NONE
        assert b.info()["tags"] == {} and b.info()["tagsLastUpdatedAt"] is None
        set = put(b, {"team": "a\u00e9\U0001f600", "env:x": ""}).expect(200).json()
        assert set["tags"] == {"team": "a\u00e9\U0001f600", "env:x": ""}
        assert set["tagsLastUpdatedAt"].startswith(time.strftime("%Y-%m-%dT", time.gmtime())), set
        set = put(b, {"team": "b"}).expect(200).json()
        assert set["tags"] == {"team": "b"}
        s.kill()
        s.start()
        assert b.request("GET", "/tags").json() == set
        item, = s.request("GET", "/api/sandboxes").json()
        assert {k: item[k] for k in NONE} == set and {k: b.info()[k] for k in NONE} == set
        emptied = put(b, {}).expect(200).json()
        assert emptied["tags"] == {} and emptied["tagsLastUpdatedAt"] >= set["tagsLastUpdatedAt"]
        put(b, b"").expect(200)


@test
def tags_are_there_in_every_state():
    with Server() as s:
        b = s.create()
        put(b, {"a": "1"}).expect(200)
        b.request("POST", "/hibernate").expect(200)
        assert put(b, {"a": "2"}).expect(200).json()["tags"] == {"a": "2"}
        assert b.info()["status"] == "hibernated"
        assert b.request("POST", "/wake").expect(200).json()["tags"] == {"a": "2"}
        b.request("DELETE").expect(204)
        assert b.request("GET", "/tags").expect(200).json()["tags"] == {"a": "2"}
        put(b, {}).expect(410)
        for method in "GET", "PUT":
            s.request(method, "/api/sandboxes/sb-00000000/tags", {"a": 1}).expect(404, "sandbox not found")


@test
def tags_that_are_none_are_refused_and_change_nothing():
    with Server() as s:
        b = s.create()
        put(b, {"kept": "1"}).expect(200)
        long = {"k" * 128: "\u00e9" * 256}
        for bad, word in (({"a": 1}, "not a string"), ({"a": None}, "not a string"), ({"a": {"b": "c"}}, "not a string"),
                          ({"": "x"}, "key"), ({"a b": "x"}, "key"), ({"\u00e9": "x"}, "key"), ({"k" * 129: "x"}, "key"),
                          ({"a": "x" * 257}, "longer"), ({"oc:a": "x"}, "reserved"), ({"a": "x\0y"}, "NUL"),
                          ({f"k{i}": "" for i in range(51)}, "more than 50"), ([], "object"), (b"{", "JSON")):
            put(b, bad).expect(400, word)
        assert b.request("GET", "/tags").json()["tags"] == {"kept": "1"}
        assert put(b, long).expect(200).json()["tags"] == long
        put(b, {f"k{i}": "" for i in range(50)}).expect(200)


@test
def keys_are_counted_over_the_sandboxes_that_are_not_stopped():
    with Server() as s:
        assert s.request("GET", "/api/tags").expect(200).json() == {"keys": []}
        a, b, c = s.create(), s.create(), s.create()
        put(a, {"team": "x", "env": "prod"}).expect(200)
        put(b, {"team": "y"}).expect(200)
        put(c, {"team": "x", "gone": "1"}).expect(200)
        b.request("POST", "/hibernate").expect(200)
        keys = [{"key": "env", "sandboxCount": 1, "valueCount": 1}, {"key": "gone", "sandboxCount": 1, "valueCount": 1},
                {"key": "team", "sandboxCount": 3, "valueCount": 2}]
        assert s.request("GET", "/api/tags").json() == {"keys": keys}
        c.request("DELETE").expect(204)
        keys[2]["sandboxCount"] = 2
        assert s.request("GET", "/tags").json() == {"keys": [keys[0], keys[2]]}
