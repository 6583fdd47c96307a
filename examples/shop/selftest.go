package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// selftest asks the shop that listens beside it for what its customers will
// ask for, and says what it found.
func selftest(listen string, out io.Writer) error {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("cannot read the address %q: %w", listen, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	base := "http://" + net.JoinHostPort("127.0.0.1", port)
	for _, path := range []string{"/", "/healthz", "/slow?ms=1", "/big?bytes=100000"} {
		if _, err := ask(ctx, http.MethodGet, base+path, nil); err != nil {
			return err
		}
	}
	upload := bytes.Repeat([]byte("shop"), 10_000)
	answer, err := ask(ctx, http.MethodPost, base+"/echo", upload)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(upload); string(answer) != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("an upload came back with the checksum %s", answer)
	}
	_, err = fmt.Fprintf(out, "selftest of version %s: all well\n", version)
	return err
}

// ask returns the body of an answer whose status and checksum are right.
func ask(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %s: %.200s", url, res.Status, answer)
	}
	if sum := sha256.Sum256(answer); res.Header.Get(checksumHeader) != hex.EncodeToString(sum[:]) {
		return nil, fmt.Errorf("%s answered a body that does not fit its checksum", url)
	}
	return answer, nil
}
