'use strict';
// javascript-scanner: a Sluice plugin in one file, with nothing of Sluice's but plugin.proto.
//
// It refuses mail that has one of the words that the administrator lists, wherever it stands: in the
// octets as they arrived, or in text that is hidden in base64 or quoted-printable. What it does is in
// Scan and configure; the rest is sdk/PROTOCOL.md, and stays as it is in a plugin of yours.

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const { loadSync } = require('@grpc/proto-loader');

const NAME = 'javascript-scanner';
const VERSION = '1.0';
const LANES = 8;

// Scan is the opinion about one message. feed and parsed return a verdict as soon as they are sure.
class Scan {
  constructor(settings, ask) {
    this.words = settings.words;
    this.envelope = ask.envelope;
    this.keep = Math.max(0, ...this.words.map((word) => word.length - 1));
    this.tail = Buffer.alloc(0); // a word may lie across two chunks
  }

  // feed looks at the next octets of the message.
  feed(data) {
    const text = Buffer.concat([this.tail, lower(data)]);
    this.tail = text.subarray(Math.max(0, text.length - this.keep));
    return this.search(text);
  }

  // parsed looks at the shared parse: the text of the parts as a reader sees it.
  parsed(parsed) {
    for (const part of parsed.parts) {
      const verdict = this.search(lower(Buffer.from(part.text)));
      if (verdict) return verdict;
    }
    return undefined;
  }

  search(text) {
    const word = this.words.find((word) => text.includes(word));
    if (word === undefined) return undefined;
    return {
      action: 'ACTION_REJECT',
      reasons: [{ symbol: 'WORD', text: 'it has the word ' + word }],
      reply: { code: 550, enhanced: '5.7.1', text: 'We do not want that word here' },
    };
  }

  // end: the whole message was seen.
  end() {
    return {}; // no objection
  }
}

// lower makes small letters of A to Z.
function lower(data) {
  const out = Buffer.allocUnsafe(data.length);
  for (let i = 0; i < data.length; i++) {
    const octet = data[i];
    out[i] = octet >= 65 && octet <= 90 ? octet + 32 : octet;
  }
  return out;
}

// configure reads the settings: a Map of what stands in [plugin.NAME.config]. It returns them, and all
// complaints, each with the key that it is about.
function configure(config) {
  const complaints = [];
  for (const key of config.keys()) {
    if (key !== 'words') complaints.push({ key, problem: 'unknown key, expected words' });
  }
  const words = config.get('words');
  if (!Array.isArray(words) || !words.every((word) => typeof word === 'string' && word !== '')) {
    complaints.push({ key: 'words', problem: 'expected a list of words: ["lottery"]' });
    return { settings: { words: [] }, complaints };
  }
  return { settings: { words: words.map((word) => lower(Buffer.from(word))) }, complaints };
}

// ---- From here on it is the protocol. ----

// plain turns a Value of TOML into a value of JavaScript: tables become Maps, times stay text.
function plain(value) {
  switch (value.kind) {
    case 'list':
      return value.list.items.map(plain);
    case 'table':
      return table(value.table.items);
    case 'integer':
      return Number(value.integer);
    default:
      return value[value.kind];
  }
}

function table(items) {
  return new Map(Object.entries(items).map(([key, value]) => [key, plain(value)]));
}

// protocol loads plugin.proto.
function protocol() {
  return loadSync(path.join(__dirname, 'plugin.proto'), {
    keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
  });
}

// strict returns a message of that name, and throws at a field or a word of an enum that plugin.proto does not have. They would
// be left out in silence when the message is written: REJECT, where it is ACTION_REJECT, would be an accept.
function strict(proto, name, message) {
  const about = (typeName) => proto['sluice.plugin.v1.' + typeName.split('.').pop()].type;
  const { field: fields, nestedType: maps } = about(name);
  for (const [key, value] of Object.entries(message)) {
    const field = fields.find((field) => field.name === key);
    if (!field) throw new TypeError(`${name}.${key}: expected one of ${fields.map((field) => field.name).join(', ')}`);
    if (value === undefined || value === null || maps.some((map) => map.name === field.typeName)) continue;
    const isList = field.label === 'LABEL_REPEATED';
    if (isList && !Array.isArray(value)) throw new TypeError(`${name}.${key}: expected a list`);
    for (const item of isList ? value : [value]) {
      if (field.type === 'TYPE_MESSAGE') strict(proto, field.typeName, item);
      if (field.type !== 'TYPE_ENUM') continue;
      const words = about(field.typeName).value;
      if (!words.some((word) => word.name === item || word.number === item)) {
        throw new TypeError(`${name}.${key} is ${item}, expected ${words.map((word) => word.name).join(', ')}`);
      }
    }
  }
  return message;
}

class Plugin {
  constructor(proto) {
    this.proto = proto;
    this.settings = { words: [] };
    this.lanes = 0;
  }

  describe(call, reply) {
    reply(null, {
      name: NAME, version: VERSION, phases: ['PHASE_CONTENT'], want: 'WANT_ALL', parsed: true,
      max_lanes: LANES, overlap: true, check_only: true,
    });
  }

  configure(call, reply) {
    const { settings, complaints } = configure(table(call.request.config));
    if (!call.request.check_only) this.settings = settings; // open, connect and start things here, never for a check
    reply(null, { errors: complaints });
  }

  // lane answers one question after the other. id is undefined when the current one has been
  // answered: what still comes of it is thrown away (section 3, rules 3 and 6).
  lane(call) {
    if (this.lanes >= LANES) { // rule 8
      call.emit('error', { code: grpc.status.RESOURCE_EXHAUSTED, details: 'all lanes are taken' });
      return;
    }
    this.lanes++;
    let open = true;
    const close = () => {
      if (open) this.lanes--;
      open = false;
    };
    call.sendMetadata(new grpc.Metadata()); // rule 1: somebody serves this lane
    let id, scan;
    const answer = (result) => {
      call.write({ answer: { id, ...result } });
      id = scan = undefined;
    };
    call.on('data', (frame) => {
      const kind = frame.frame;
      if (kind === 'ask') {
        id = frame.ask.id;
        scan = new Scan(this.settings, frame.ask);
        return;
      }
      if (kind === undefined || id === undefined || frame[kind].id !== id) return; // late, or newer than this program
      try {
        let verdict;
        if (kind === 'chunk') verdict = scan.feed(frame.chunk.data);
        else if (kind === 'parsed') verdict = scan.parsed(frame.parsed);
        else if (kind === 'end') verdict = scan.end();
        else answer({ error: { text: 'cancelled' } });
        if (verdict) answer({ verdict: strict(this.proto, 'Verdict', verdict) });
      } catch (error) { // no opinion: on_failure decides
        console.error(`question ${id}:`, error);
        answer({ error: { text: String(error).slice(0, 1000) } });
      }
    });
    call.on('end', () => { close(); call.end(); });
    call.on('cancelled', close);
    call.on('error', close);
  }
}

// serve is the handshake (section 1), and the server until the host is gone.
function serve() {
  if (process.env.SLUICE_PLUGIN !== 'b2c9e34d-the-question-comes-first') {
    console.error(`${NAME} is a plugin for the mail server Sluice, which starts it; see README.md`);
    process.exit(2);
  }
  process.stdin.on('data', () => {}).on('error', () => process.exit(0)).on('end', () => process.exit(0));

  const proto = protocol();
  const octets = (name) => ({
    path: name, requestStream: false, responseStream: false,
    requestSerialize: (b) => b, requestDeserialize: (b) => b, responseSerialize: (b) => b, responseDeserialize: (b) => b,
  });
  const plugin = new Plugin(proto);
  const server = new grpc.Server({ 'grpc.max_receive_message_length': 16 << 20 });
  server.addService(proto['sluice.plugin.v1.Plugin'], {
    Describe: (call, reply) => plugin.describe(call, reply),
    Configure: (call, reply) => plugin.configure(call, reply),
    Lane: (call) => plugin.lane(call),
  });
  server.addService({ check: octets('/grpc.health.v1.Health/Check') }, {
    check: (call, reply) => reply(null, Buffer.from([8, 1])), // status: SERVING
  });
  server.addService({ shutdown: octets('/plugin.GRPCController/Shutdown') }, {
    shutdown: (call, reply) => {
      reply(null, Buffer.alloc(0));
      setTimeout(() => process.exit(0), 100);
    },
  });
  const socket = path.join(process.env.PLUGIN_UNIX_SOCKET_DIR, 'plugin.sock');
  server.bindAsync('unix:' + socket, grpc.ServerCredentials.createInsecure(), (error) => {
    if (error) throw error;
    process.stdout.write(`1|1|unix|${socket}|grpc|\n`);
  });
}

module.exports = { Scan, configure, plain, protocol, strict };
if (require.main === module) serve();
