/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What dormouse-net sends to a VMM: messages of a socket (SOCK_SEQPACKET), each with one frame or
 * several, so that those of one moment cost one system call, one wake-up and one interrupt.
 *
 * Before each frame there is a struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6), little-endian. As no
 * frame is to be segmented, its hdr_len is free: there it is the length of the frame, if another
 * one is behind it, and 0 if the frame is what is left of the message.
 */
#ifndef LIB_NET_MESSAGE_H
#define LIB_NET_MESSAGE_H

/* Room for a frame of the largest kind, and for three of libslirp's segments. */
#define NET_MESSAGE_MAX	   (128u << 10)
#define NET_MESSAGE_LENGTH 2 /* offset of hdr_len in the header */
/* In its flags, which are the first byte: nobody waits for what the guest says to this frame. */
#define NET_MESSAGE_UNHEARD 0x80u

#endif
