// SPDX-License-Identifier: Apache-2.0
// Runs in a sandbox: a stand-in for the model's HTTP API. model.mjs PORT
//
// Answers each message with `heard: ` and the user's last words; to words with "wait for ever" it begins to
// answer and does not go on. GET /seen: the user's words so far, of the requests of turns.
import http from 'node:http';

const seen = [];

function words(request) {
	const { content } = request.messages.filter((m) => m.role === 'user').at(-1);
	return typeof content === 'string' ? content
		: content.filter((part) => part.type === 'text').map((part) => part.text).join(' ');
}

function answer(res, request, text) {
	const event = (type, data) => res.write(`event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`);
	const message = {
		id: 'msg_1', type: 'message', role: 'assistant', model: request.model, content: [],
		stop_reason: null, stop_sequence: null, usage: { input_tokens: 1, output_tokens: 1 },
	};
	if (!request.stream) {
		res.writeHead(200, { 'Content-Type': 'application/json' });
		res.end(JSON.stringify({ ...message, content: [{ type: 'text', text }], stop_reason: 'end_turn' }));
		return;
	}
	res.writeHead(200, { 'Content-Type': 'text/event-stream' });
	event('message_start', { message });
	event('content_block_start', { index: 0, content_block: { type: 'text', text: '' } });
	event('content_block_delta', { index: 0, delta: { type: 'text_delta', text } });
	if (text.includes('wait for ever'))
		return;
	event('content_block_stop', { index: 0 });
	event('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 1 } });
	event('message_stop', {});
	res.end();
}

const server = http.createServer(async (req, res) => {
	const chunks = [];
	for await (const chunk of req)
		chunks.push(chunk);
	const path = req.url.split('?')[0];
	if (path === '/seen') {
		res.end(JSON.stringify(seen));
	} else if (path === '/v1/messages') {
		const request = JSON.parse(Buffer.concat(chunks));
		const text = words(request);
		// The SDK warms its caches with requests of its own.
		if (!/^Warmup/.test(text))
			seen.push({ text, messages: request.messages.length, model: request.model, key: req.headers['x-api-key'] });
		answer(res, request, `heard: ${text}`);
	} else if (path === '/v1/messages/count_tokens') {
		res.writeHead(200, { 'Content-Type': 'application/json' });
		res.end('{"input_tokens":1}');
	} else {
		res.writeHead(404, { 'Content-Type': 'application/json' });
		res.end('{"type":"error","error":{"type":"not_found_error","message":"no such route"}}');
	}
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('listening'));
