// SPDX-License-Identifier: Apache-2.0
// Tar archives that tests make.

/**
 * A tar of [path, content, mode, more]; no content: a directory, or what `more` says.
 *
 * `more`: `uid`, `gid`, and `hard` or `soft`, the path that a link leads to.
 */
export function tar(files) {
	const blocks = files.map(([path, content, mode, { uid = 0, gid = 0, hard, soft } = {}]) => {
		const data = Buffer.from(content ?? ''), head = Buffer.alloc(512), body = Buffer.alloc(Math.ceil(data.length / 512) * 512);
		const octal = (n, width) => n.toString(8).padStart(width, '0');
		const type = hard !== undefined ? 1 : soft !== undefined ? 2 : content === undefined ? 5 : 0;
		head.write(path, 0);
		head.write(`${octal(mode, 7)}\0${octal(uid, 7)}\0${octal(gid, 7)}\0`, 100);
		head.write(`${octal(data.length, 11)}\0${octal(0, 11)}\0        ${type}`, 124);
		head.write(hard ?? soft ?? '', 157);
		head.write('ustar\u000000', 257);
		head.write(`${octal(head.reduce((sum, byte) => sum + byte, 0), 6)}\0 `, 148);
		data.copy(body);
		return Buffer.concat([head, body]);
	});
	return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}
