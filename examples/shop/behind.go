package main

import (
	"io"
	"net/http"
)

// maxBehind bounds what is taken from the service behind.
const maxBehind = 1 << 20

// behind answers with what another service answers, each time over a new
// connection: it shows how services reach each other by name.
func behind(url string) http.HandlerFunc {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, url, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		res, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(res.Body, maxBehind))
		if err != nil || res.StatusCode != http.StatusOK {
			http.Error(w, "the service behind answered "+res.Status, http.StatusBadGateway)
			return
		}
		w.Header().Set("X-Shop-Behind", res.Header.Get("X-Shop-Version"))
		send(w, body)
	}
}
