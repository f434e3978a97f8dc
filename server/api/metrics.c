/* SPDX-License-Identifier: Apache-2.0 */
/* GET /metrics: what this server is and does, in Prometheus' text format. */
#include "server/api/api.h"
#include "server/http/httpd.h"
#include "server/preview/preview.h"

static void describe(struct strbuf *b, const char *name, const char *type, const char *help)
{
	strbuf_addf(b, "# HELP dormouse_%s %s\n# TYPE dormouse_%s %s\n", name, help, name, type);
}

static void write_value(struct strbuf *b, const char *name, const char *type, const char *help,
			uint64_t value)
{
	describe(b, name, type, help);
	strbuf_addf(b, "dormouse_%s %llu\n", name, (unsigned long long)value);
}

/* Seconds with as many digits as are known. */
static void write_seconds(struct strbuf *b, uint64_t us)
{
	strbuf_addf(b, "%llu.%06llu", (unsigned long long)(us / 1000000),
		    (unsigned long long)(us % 1000000));
}

/* @labels: `a="b",c="d"`. Nothing for one without samples. */
static void write_histogram(struct strbuf *b, const char *name, const char *labels,
			    const struct histogram *h)
{
	uint64_t total = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		total += __atomic_load_n(&h->buckets[i], __ATOMIC_RELAXED);
	if (!total)
		return;
	total = 0;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		total += __atomic_load_n(&h->buckets[i], __ATOMIC_RELAXED);
		strbuf_addf(b, "dormouse_%s_bucket{%s,le=\"", name, labels);
		if (i == HISTOGRAM_BUCKETS - 1)
			strbuf_adds(b, "+Inf");
		else
			write_seconds(b, histogram_bound_us(i));
		strbuf_addf(b, "\"} %llu\n", (unsigned long long)total);
	}
	strbuf_addf(b, "dormouse_%s_sum{%s} ", name, labels);
	write_seconds(b, __atomic_load_n(&h->sum_us, __ATOMIC_RELAXED));
	strbuf_addf(b, "\ndormouse_%s_count{%s} %llu\n", name, labels, (unsigned long long)total);
}

/* --- HTTP --------------------------------------------------------------------------------- */

/* Routes are literals of ours: nothing in them needs an escape. */
static void route_labels(size_t route, char *labels, size_t size)
{
	if (route == api_routes_count)
		snprintf(labels, size, "method=\"\",route=\"\"");
	else
		snprintf(labels, size, "method=\"%s\",route=\"%s\"", api_routes[route].method,
			 api_routes[route].pattern);
}

static void write_counts(struct strbuf *b, const char *labels, const struct route_stats *s)
{
	for (size_t i = 0; i < STATS_STATUSES; i++) {
		uint64_t n = __atomic_load_n(&s->statuses[i], __ATOMIC_RELAXED);

		if (!n)
			continue;
		strbuf_addf(b, "dormouse_http_requests_total{%s,status=\"", labels);
		if (stats_status(i))
			strbuf_addf(b, "%u", stats_status(i));
		else
			strbuf_adds(b, "other");
		strbuf_addf(b, "\"} %llu\n", (unsigned long long)n);
	}
}

static void write_http(struct strbuf *b, const struct httpd *h)
{
	const struct route_stats *routes = httpd_route_stats(h);
	char labels[160];

	describe(b, "http_requests_total", "counter",
		 "Requests that were answered; without a route: those that match none.");
	for (size_t i = 0; i <= api_routes_count; i++) {
		route_labels(i, labels, sizeof(labels));
		write_counts(b, labels, &routes[i]);
	}
	describe(b, "http_request_duration_seconds", "histogram",
		 "From the headers of a request to the end of its answer.");
	for (size_t i = 0; i <= api_routes_count; i++) {
		route_labels(i, labels, sizeof(labels));
		write_histogram(b, "http_request_duration_seconds", labels, &routes[i].duration);
	}
	write_value(b, "http_requests_in_progress", "gauge", "Requests that are being answered.",
		    httpd_active(h));
	write_value(b, "http_connections", "gauge", "Open connections.", httpd_connections(h));
}

/* --- sandboxes ------------------------------------------------------------------------------ */

static void write_operations(struct strbuf *b, const struct operation_stats *ops)
{
	char labels[64];

	describe(b, "sandbox_operation_duration_seconds", "histogram",
		 "Operations on sandboxes that succeeded, whoever asked for them.");
	for (int i = 0; i < OP_COUNT; i++) {
		snprintf(labels, sizeof(labels), "operation=\"%s\"",
			 operation_name((enum operation)i));
		write_histogram(b, "sandbox_operation_duration_seconds", labels, &ops[i].succeeded);
	}
	describe(b, "sandbox_operation_failures_total", "counter",
		 "Operations on sandboxes that failed.");
	for (int i = 0; i < OP_COUNT; i++)
		strbuf_addf(
		    b, "dormouse_sandbox_operation_failures_total{operation=\"%s\"} %llu\n",
		    operation_name((enum operation)i),
		    (unsigned long long)__atomic_load_n(&ops[i].failures, __ATOMIC_RELAXED));
}

static void write_sandboxes(struct strbuf *b, struct manager *m)
{
	struct manager_figures f;

	manager_figures(m, &f);
	describe(b, "sandboxes", "gauge", "Sandboxes that are not deleted, by status.");
	for (int i = 0; i < MANAGER_STATUSES; i++)
		strbuf_addf(b, "dormouse_sandboxes{status=\"%s\"} %u\n",
			    sandbox_status_name((enum sandbox_status)i), f.by_status[i]);
	write_value(b, "sandboxes_max", "gauge", "How many may run.",
		    (uint64_t)manager_config(m)->max_sandboxes);
	write_value(b, "commands_in_background", "gauge",
		    "Commands whose output is read without a request that waits for it.",
		    f.background);
	write_value(b, "pool_shells", "gauge", "VMM processes made in advance.", f.shells);
	write_value(b, "pool_size", "gauge", "How many of them there should be.",
		    (uint64_t)manager_config(m)->pool_size);
	write_operations(b, manager_operations(m));
}

static uint64_t look(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void write_previews(struct strbuf *b, const struct preview_stats *s)
{
	write_value(b, "preview_connections", "gauge", "Open ones, forwarded ones too.",
		    __atomic_load_n(&s->open, __ATOMIC_RELAXED));
	write_value(b, "preview_connections_total", "counter", "Connections to ports of sandboxes.",
		    look(&s->connections));
	write_value(b, "preview_connections_refused_total", "counter",
		    "Those of them that were too many.", look(&s->refused));
	describe(b, "preview_bytes_total", "counter", "Bytes to (up) and from ports of sandboxes.");
	strbuf_addf(b, "dormouse_preview_bytes_total{direction=\"up\"} %llu\n",
		    (unsigned long long)look(&s->bytes_up));
	strbuf_addf(b, "dormouse_preview_bytes_total{direction=\"down\"} %llu\n",
		    (unsigned long long)look(&s->bytes_down));
}

void api_metrics(struct request *r)
{
	const struct api *a = r->app;
	struct strbuf b = {0};

	describe(&b, "build_info", "gauge", "The version of the server.");
	strbuf_addf(&b, "dormouse_build_info{version=\"%s\"} 1\n", a->version);
	write_value(&b, "start_time_seconds", "gauge", "When the server started, since 1970.",
		    (uint64_t)a->started_s);
	write_sandboxes(&b, a->manager);
	write_previews(&b, preview_stats(a->previews));
	write_http(&b, r->httpd);
	if (b.failed)
		reply_error(r, 503, "out of memory");
	else
		reply_bytes(r, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
	strbuf_fini(&b);
}
