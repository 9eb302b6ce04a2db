// Reads {"dns": {NAME: [TEXT, ...]}, "messages": [BASE64, ...], "ip", "helo", "sender"} and writes for each message what
// mailauth finds.
const { authenticate } = require('mailauth');

async function main() {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const task = JSON.parse(input);
  const resolver = async (name, type) => {
    const texts = task.dns[name.toLowerCase().replace(/\.$/, '')];
    if (type !== 'TXT' || !texts) {
      const err = new Error('no such name');
      err.code = 'ENOTFOUND';
      throw err;
    }
    return texts.map((text) => [text]);
  };
  for (const message of task.messages) {
    const found = await authenticate(Buffer.from(message, 'base64'), {
      ip: task.ip, helo: task.helo, sender: task.sender, mta: 'judge.test', resolver, trustReceived: false
    });
    console.log(JSON.stringify({
      dkim: found.dkim.results.map((r) => r.status.result + ' ' + r.signingDomain),
      arc: (found.arc && found.arc.status && found.arc.status.result) || 'none',
      spf: (found.spf && found.spf.status.result) || 'none',
      dmarc: (found.dmarc && found.dmarc.status.result) || 'none'
    }));
  }
}

main().catch((err) => {
  console.error(err);
  process.exit(1);
});
