/* SPDX-License-Identifier: Apache-2.0 */
/* What the routes that build images share. */
#ifndef SERVER_API_IMAGES_H
#define SERVER_API_IMAGES_H

#include "server/api/api.h"
#include "server/manager/build.h"

/* The member `image` of the body. False after having replied 400. */
bool api_read_manifest(struct request *r, struct manifest *m);

/**
 * api_await_build() - Wait for a build; its log goes to who accepts events
 *
 * Return: true and *@res, also if it has failed; false after having replied that the server stops.
 * The build is the caller's in each case.
 */
bool api_await_build(struct request *r, struct build *b, struct build_result *res);
/* Say that it has failed, with status @failed or 503. */
void api_reply_failed_build(struct request *r, const struct build_result *res, unsigned int failed);
/* Both. Return: true and *@res; false after having replied */
bool api_follow_build(struct request *r, struct build *b, unsigned int failed,
		      struct build_result *res);

/**
 * api_finish_snapshot() - The same for a snapshot, whose build is @b
 * @row:	Taken over; set to what it has become, and for the caller to release, if that is
 * good
 */
bool api_finish_snapshot(struct request *r, struct build *b, struct snapshot_row *row,
			 unsigned int failed);

/* One line of a log, to who accepts events. */
void api_send_log(struct request *r, int step, const char *type, const char *message);

/* Before a stream of events: the rest of a create, from the member image or snapshot. */
void api_create_of_image(struct request *r, struct sandbox_spec *spec, const char *preview_token);
/* @by_template: the name came as templateID. */
void api_create_of_snapshot(struct request *r, const char *name, bool by_template,
			    struct sandbox_spec *spec, const char *preview_token);

/* images.c, snapshots.c, templates.c */
void api_image_build(struct request *r);
/* import.c: the archive is the body. */
void api_image_import(struct request *r);
extern const struct upload_ops api_image_upload;
void api_image_list(struct request *r);
void api_image_delete(struct request *r);
void api_snapshot_create(struct request *r);
void api_snapshot_list(struct request *r);
void api_snapshot_get(struct request *r);
void api_snapshot_delete(struct request *r);
void api_snapshot_publish(struct request *r);
void api_snapshot_unpublish(struct request *r);
void api_template_build(struct request *r);
void api_template_list(struct request *r);
void api_template_get(struct request *r);
void api_template_delete(struct request *r);

/* patches.c: those of the checkpoint that an image or a snapshot has. */
void api_image_patch_create(struct request *r);
void api_image_patch_list(struct request *r);
void api_image_patch_delete(struct request *r);
void api_snapshot_patch_create(struct request *r);
void api_snapshot_patch_list(struct request *r);
void api_snapshot_patch_delete(struct request *r);

#endif
