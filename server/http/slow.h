/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handlers that may take longer than clients wait for a sign of life (api.md 17.4).
 *
 * Theory of operation
 * -------------------
 * The handler of a route with ROUTE_SLOW runs on a thread of its own, with a request object that
 * borrows from the real one and keeps the reply as text. If it is there soon, it is
 * sent as any other. If not, status (200 or 201, as the route says) and headers go out, then
 * a blank every 15 s (or as httpd_config says), which JSON allows in front, then the reply. A
 * failure that comes then cannot be told any more: the connection is cut in the middle of the body,
 * so that no client takes what it got for an answer.
 *
 * Where the route has ROUTE_EVENTS and the client accepts text/event-stream, the handler may make
 * the answer a stream of events (api.md 17.3): events_begin(), events_send(), and at the end its
 * reply as ever, which becomes the event `result` or `error`. Before events_begin(), and in a
 * handler that never calls it, all is as above. A handler that sends faster than its client reads
 * waits; when the client has gone, it does not, and should look for that.
 */
#ifndef SERVER_HTTP_SLOW_H
#define SERVER_HTTP_SLOW_H

#include <stdbool.h>
#include <stddef.h>

struct request;

/* Run the handler of @r's route. There is a reply afterwards: after @quiet_ms at the latest the
 * first part of one, of which every @blank_ms another follows. */
void slow_run(struct request *r, unsigned int quiet_ms, unsigned int blank_ms);

/* For handlers. All do nothing for clients that do not accept events. */
void events_begin(struct request *r);
/* @json: one line; copied */
void events_send(struct request *r, const char *event, const char *json, size_t len);
/* Nobody will see the answer. Only known of those that accept events. */
bool events_gone(const struct request *r);

#endif
