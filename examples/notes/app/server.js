// Notes: POST / adds one, GET / returns how many there are and the last ten.
'use strict';
const http = require('http');
const { Pool } = require('pg');

// Where the database is comes from PGHOST. A connection that breaks is made
// anew by the pool: the database may be replaced while this runs.
const pool = new Pool({ user: 'postgres', database: 'postgres', max: 4, connectionTimeoutMillis: 2000 });
pool.on('error', (err) => console.error('connection lost: ' + err.message));

const ready = pool.query('CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, at timestamptz DEFAULT now(), text text NOT NULL)')
  .catch((err) => console.error('no table yet: ' + err.message));

async function answer(req, body) {
  await ready;
  if (req.url === '/healthz') {
    await pool.query('SELECT 1 FROM notes LIMIT 1');
    return 'ok\n';
  }
  if (req.method === 'POST') {
    const { rows } = await pool.query('INSERT INTO notes (text) VALUES ($1) RETURNING id', [body]);
    return `note ${rows[0].id}\n`;
  }
  const { rows } = await pool.query('SELECT (SELECT count(*) FROM notes) AS n, id, text FROM notes ORDER BY id DESC LIMIT 10');
  return `${rows.length ? rows[0].n : 0} notes\n` + rows.map((r) => `${r.id}: ${r.text}\n`).join('');
}

const server = http.createServer((req, res) => {
  const parts = [];
  req.on('data', (part) => parts.push(part));
  req.on('end', async () => {
    try {
      const text = await answer(req, Buffer.concat(parts).toString());
      res.writeHead(200, { 'Content-Type': 'text/plain; charset=utf-8' });
      res.end(text);
    } catch (err) {
      res.writeHead(503, { 'Content-Type': 'text/plain; charset=utf-8' });
      res.end(err.message + '\n');
    }
  });
});
server.listen(8080, () => console.log('notes on port 8080'));

// kiln drains before it stops a server: what is still here may end.
process.on('SIGTERM', () => server.close(() => pool.end().then(() => process.exit(0))));
