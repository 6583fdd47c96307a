package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

// The bounds of what a client may ask for.
const (
	maxSlow   = 10 * time.Minute
	maxBig    = 64 << 20
	maxUpload = 256 << 20
	maxEvents = 100_000
)

// checksumHeader carries the SHA-256 of an answer's body, in hexadecimal.
const checksumHeader = "X-Shop-Checksum"

// newShop returns the whole application.
func newShop(m mistakes) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", home)
	mux.HandleFunc("GET /healthz", m.health)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /stream", stream)
	mux.HandleFunc("GET /ws", chat)
	mux.HandleFunc("GET /big", big)
	if m.behind != "" {
		mux.HandleFunc("GET /behind", behind(m.behind))
	}
	host, _ := os.Hostname()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Shop-Version", version)
		w.Header().Set("X-Shop-Server", host)
		mux.ServeHTTP(w, r)
	})
}

// home is the page people see; its colour goes by the version.
func home(w http.ResponseWriter, _ *http.Request) {
	colour := "#3b6ea5"
	if version == "2" {
		colour = "#3f8f4f"
	}
	body := fmt.Appendf(nil, `<!doctype html>
<title>Shop %[1]s</title>
<body style="font-family:sans-serif;background:%[2]s;color:white;text-align:center">
<h1>Shop</h1><p>version %[1]s</p></body>
`, version, colour)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	send(w, body)
}

// slow answers after ?ms= milliseconds.
func slow(w http.ResponseWriter, r *http.Request) {
	ms, ok := number(w, r, "ms", 100, int(maxSlow/time.Millisecond))
	if !ok {
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		send(w, fmt.Appendf(nil, "slept %d ms, version %s\n", ms, version))
	case <-r.Context().Done():
	}
}

// echo answers an upload with its SHA-256, in hexadecimal.
func echo(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, http.MaxBytesReader(w, r.Body, maxUpload))
	if err != nil {
		http.Error(w, fmt.Sprintf("cannot read the upload after %d bytes: %v", n, err), http.StatusBadRequest)
		return
	}
	send(w, []byte(hex.EncodeToString(h.Sum(nil))))
}

// big sends ?bytes= bytes that look random and depend on the count alone.
func big(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, "bytes", 1<<20, maxBig)
	if !ok {
		return
	}
	body := make([]byte, n)
	var seed [32]byte
	copy(seed[:], strconv.Itoa(n))
	// ChaCha8.Read never fails.
	_, _ = rand.NewChaCha8(seed).Read(body)
	w.Header().Set("Content-Type", "application/octet-stream")
	send(w, body)
}

// stream sends ?events= server-sent events, ?every= milliseconds apart, and
// one of the type "end", which tells a whole stream from a cut one.
func stream(w http.ResponseWriter, r *http.Request) {
	events, ok := number(w, r, "events", 10, maxEvents)
	if !ok {
		return
	}
	every, ok := number(w, r, "every", 100, int(maxSlow/time.Millisecond))
	if !ok {
		return
	}
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	tick := time.NewTicker(time.Duration(max(every, 1)) * time.Millisecond)
	defer tick.Stop()
	for n := range events {
		fmt.Fprintf(w, "data: %d %s\n\n", n, version)
		if out.Flush() != nil {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
	fmt.Fprintf(w, "event: end\ndata: %d\n\n", events)
}

// chat is a WebSocket that sends back what it gets.
func chat(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	h := http.Header{"X-Shop-Version": w.Header()["X-Shop-Version"]}
	conn, err := up.Upgrade(w, r, h)
	if err != nil {
		return // Upgrade has answered
	}
	defer func() { _ = conn.Close() }()
	conn.SetReadLimit(1 << 20)
	for {
		kind, msg, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if conn.WriteMessage(kind, msg) != nil {
			return
		}
	}
}

// send writes a whole body with its checksum and length.
func send(w http.ResponseWriter, body []byte) {
	sum := sha256.Sum256(body)
	w.Header().Set(checksumHeader, hex.EncodeToString(sum[:]))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that went away is no matter of the shop's
}

// number reads a whole number between 0 and most from the query.
func number(w http.ResponseWriter, r *http.Request, name string, otherwise, most int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		http.Error(w, fmt.Sprintf("%s must be a number from 0 to %d", name, most), http.StatusBadRequest)
		return 0, false
	}
	return n, true
}
