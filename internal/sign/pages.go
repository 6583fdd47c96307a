package sign

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// maxPages is how many pages of a list of referrers are read, and maxPage how large
// each may be, in bytes.
const (
	maxPages = 100
	maxPage  = 4 << 20
)

// Paged returns a transport that reads lists of referrers whole where a registry gives
// them in pages
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers):
// who uses it sees one answer.
func Paged(next http.RoundTripper) http.RoundTripper { return pages{next} }

type pages struct{ next http.RoundTripper }

var (
	referrersOf = regexp.MustCompile(`/v2/.+/referrers/[^/]+$`)
	nextPage    = regexp.MustCompile(`<([^>]*)>\s*;[^,]*rel="?next"?`)
)

// RoundTrip implements http.RoundTripper.
func (p pages) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := p.next.RoundTrip(r)
	if err != nil || r.Method != http.MethodGet || !referrersOf.MatchString(r.URL.Path) || res.StatusCode != http.StatusOK || following(res, r.URL) == nil {
		return res, err
	}
	var whole map[string]json.RawMessage
	var entries []json.RawMessage
	first := res
	for range maxPages {
		page, list, err := readPage(res)
		if err != nil {
			return nil, err
		}
		if whole == nil {
			whole = page
		}
		entries = append(entries, list...)
		at := following(res, r.URL)
		if at == nil || len(entries) > maxAttachments {
			break
		}
		again := r.Clone(r.Context())
		again.URL = at
		if res, err = p.next.RoundTrip(again); err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK {
			return res, nil // as if it were the answer: the list is not whole
		}
	}
	if whole["manifests"], err = json.Marshal(entries); err != nil {
		return nil, err
	}
	body, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	first.Body, first.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	first.Header.Del("Link")
	first.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return first, nil
}

// following is where the next page is, on the same host; nil: there is none.
func following(res *http.Response, from *url.URL) *url.URL {
	m := nextPage.FindStringSubmatch(strings.Join(res.Header.Values("Link"), ", "))
	if m == nil {
		return nil
	}
	at, err := from.Parse(m[1])
	if err != nil || at.Host != from.Host || at.Scheme != from.Scheme {
		return nil
	}
	return at
}

func readPage(res *http.Response) (page map[string]json.RawMessage, entries []json.RawMessage, err error) {
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxPage))
	if err == nil {
		err = json.Unmarshal(text, &page)
	}
	if err == nil && page["manifests"] != nil {
		err = json.Unmarshal(page["manifests"], &entries)
	}
	return page, entries, err
}
