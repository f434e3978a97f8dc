/* SPDX-License-Identifier: Apache-2.0 */
/* Who may be spoken with; see policy.h. */
#include "server/net/policy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "lib/json.h"

struct policy_fields {
	bool internet;
	const char *dns;
	json_t *allow, *deny;
};

static const struct json_field fields[] = {
    JSON_FIELD(struct policy_fields, internet, "internet", JSON_F_BOOL),
    JSON_FIELD(struct policy_fields, dns, "dns", JSON_F_STRING),
    JSON_FIELD(struct policy_fields, allow, "allow", JSON_F_STRINGS),
    JSON_FIELD(struct policy_fields, deny, "deny", JSON_F_STRINGS),
};

static int parse_ranges(json_t *list, struct net_prefix *out, size_t *n, struct err *e)
{
	json_t *item;
	size_t i;

	if (json_array_size(list) > POLICY_RANGES)
		return err_set(e, -EINVAL, "more than %d ranges", POLICY_RANGES);
	json_array_foreach(list, i, item)
	{
		const char *text = json_string_value(item);

		if (net_prefix_parse(text, &out[i]))
			return err_set(e, -EINVAL, "\"%.60s\" is no range of addresses", text);
	}
	*n = json_array_size(list);
	return 0;
}

int policy_parse(json_t *obj, struct policy *out, struct err *e)
{
	struct policy_fields f = {0};
	struct policy p = {0};
	int rc =
	    json_bind(obj, fields, sizeof(fields) / sizeof(fields[0]), JSON_IGNORE_UNKNOWN, &f, e);

	if (rc)
		return rc;
	p.internet = f.internet;
	if (f.dns && *f.dns) {
		p.dns.family = strchr(f.dns, ':') ? AF_INET6 : AF_INET;
		p.has_dns = inet_pton(p.dns.family, f.dns, p.dns.b) == 1;
		if (!p.has_dns)
			return err_set(e, -EINVAL, "dns: \"%.60s\" is no address", f.dns);
	}
	rc = parse_ranges(f.allow, p.allow, &p.allow_n, e);
	if (!rc)
		rc = parse_ranges(f.deny, p.deny, &p.deny_n, e);
	if (!rc)
		*out = p;
	return rc;
}

static bool covers(const struct net_prefix *list, size_t n, const struct net_addr *a)
{
	for (size_t i = 0; i < n; i++)
		if (net_prefix_covers(&list[i], a))
			return true;
	return false;
}

bool host_addrs_have(const struct host_addrs *h, const struct net_addr *a)
{
	return covers(h->list, h->n, a);
}

/* Never, whatever is allowed beyond the public: the host itself, and what is no host's address. */
static bool is_barred(const struct host_addrs *h, const struct net_addr *a)
{
	static const struct net_prefix barred[] = {
	    {{AF_INET, {0}}, 8},
	    {{AF_INET, {127}}, 8},
	    {{AF_INET, {10, 0, 2}}, 24}, /* the wire's own names for the host */
	    {{AF_INET, {169, 254}}, 16},
	    {{AF_INET, {224}}, 3},
	    {{AF_INET6, {0}}, 80},		  /* ::1, mapped, compatible */
	    {{AF_INET6, {[8] = 0xff, 0xff}}, 96}, /* translated */
	    {{AF_INET6, {0xfd, 0, 0x6f, 0x63}}, 64},
	    {{AF_INET6, {0xfe, 0x80}}, 10},
	    {{AF_INET6, {0xff}}, 8},
	};

	return covers(barred, sizeof(barred) / sizeof(barred[0]), a) ||
	       (h && host_addrs_have(h, a));
}

bool policy_allows(const struct policy *p, const struct host_addrs *h, const struct net_addr *a)
{
	struct net_addr inner;

	if (!p->internet || is_barred(h, a) || covers(p->deny, p->deny_n, a))
		return false;
	if (net_addr_inner(a, &inner) &&
	    (is_barred(h, &inner) || covers(p->deny, p->deny_n, &inner)))
		return false;
	return net_addr_is_public(a) || covers(p->allow, p->allow_n, a);
}
