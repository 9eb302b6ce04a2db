'use strict';
// What the scanner says about messages, without a server: node --test.

const assert = require('node:assert');
const { test } = require('node:test');
const { Scan, configure, plain, protocol, strict } = require('./scanner.js');

function verdict(words, chunks, texts = []) {
  const { settings, complaints } = configure(new Map([['words', words]]));
  assert.deepStrictEqual(complaints, []);
  const scan = new Scan(settings, { envelope: {} });
  for (const chunk of chunks) {
    const sure = scan.feed(Buffer.from(chunk, 'latin1'));
    if (sure) return sure;
  }
  return scan.parsed({ parts: texts.map((text) => ({ text })) }) ?? scan.end();
}

test('words', () => {
  for (const [chunks, texts, action] of [
    [['Subject: Hello\r\n\r\nHi\r\n'], [], undefined],
    [['Subject: You won the LOTTERY\r\n\r\n'], [], 'ACTION_REJECT'],
    [['Subject: lot', 'tery\r\n\r\n'], [], 'ACTION_REJECT'],
    [[...'lottery'], [], 'ACTION_REJECT'],
    [['\r\n\r\nbG90dGVyeQ==\r\n'], ['lottery'], 'ACTION_REJECT'],
    [['\0\xff\xfe\r\n'], ['\ufffd'], undefined],
    [[], [], undefined],
  ]) {
    assert.strictEqual(verdict(['lottery', 'prize'], chunks, texts).action, action, JSON.stringify(chunks));
  }
  assert.strictEqual(verdict(['ü'], ['\xc3', '\xbc']).reasons[0].text, 'it has the word ü');
  assert.strictEqual(verdict(['x'], ['a', 'b']).action, undefined);
});

test('reply', () => {
  assert.strictEqual(verdict(['Lottery'], ['lottery']).reply.code, 550);
});

test('complaints', () => {
  const keys = (config) => configure(new Map(Object.entries(config))).complaints.map((c) => c.key);
  assert.deepStrictEqual(keys({}), ['words']);
  assert.deepStrictEqual(keys({ words: 'lottery' }), ['words']);
  assert.deepStrictEqual(keys({ words: [''] }), ['words']);
  assert.deepStrictEqual(keys({ words: ['a'], wrods: 'b' }), ['wrods']);
  assert.deepStrictEqual(keys({ words: ['a'] }), []);
});

test('plain', () => {
  const value = { kind: 'table', table: { items: { a: { kind: 'integer', integer: '3' } } } };
  assert.deepStrictEqual(plain(value), new Map([['a', 3]]));
});

test('what would be left out in silence is an error', () => {
  const proto = protocol();
  for (const [message, complaint] of [
    [{}, undefined],
    [{ action: 5, reply: undefined, tags: { any: 'x' }, recipients: [{ recipient: 'a@b', action: 'ACTION_JUNK' }] }, undefined],
    [{ action: 'REJECT' }, /Verdict.action is REJECT, expected ACTION_ACCEPT, /],
    [{ action: 6 }, /Verdict.action is 6/],
    [{ scores: 5 }, /Verdict.scores: expected one of action, score, /],
    [{ reasons: 'spam' }, /Verdict.reasons: expected a list/],
    [{ recipients: [{ recipient: 'a@b', action: 'junk' }] }, /RecipientVerdict.action is junk/],
    [{ changes: [{ kind: 'CHANGE_KIND_ADD_FIELD', Name: 'X' }] }, /Change.Name: expected one of /],
    [{ reply: '550 no' }, /Reply.0: expected one of code, /],
  ]) {
    if (complaint) assert.throws(() => strict(proto, 'Verdict', message), complaint);
    else assert.strictEqual(strict(proto, 'Verdict', message), message);
  }
});
