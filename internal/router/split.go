package router

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"kiln/internal/model"
)

// split shares a service's requests between two releases while a canary runs.
// Everybody has a place in 0…99, and who is below the weight goes to the new
// side: a weight that rises takes further visitors over and sends none back.
type split struct {
	model.Split
	seed  uint64
	draws atomic.Uint64
}

// places is how many there are: a weight is a percentage.
const places = 100

func newSplit(s *model.Split) *split {
	if s == nil {
		return nil
	}
	return &split{Split: *s, seed: rand.Uint64()}
}

// visitor is what a split may ask of who sends a request.
type visitor interface {
	header(name string) string
	cookie(name string) string // its value; "": none
}

// canary is an exchange's part in a split.
type canary struct {
	visitor visitor // nil: plain bytes, which have neither headers nor cookies
	place   int     // 1 + the place, once it is known; it stays over retries
	tell    string  // the cookie by which the client is to be told its place; "": none
}

// toNew says on which side x belongs.
func (s *split) toNew(x *exchange) bool {
	if x.visitor != nil && s.Header != "" {
		switch strings.ToLower(x.visitor.header(s.Header)) {
		case "always":
			return true
		case "never":
			return false
		}
	}
	if x.place == 0 {
		s.seat(x)
	}
	return x.place-1 < s.Weight
}

// seat finds x's place: the one that its visitor has by the cookie, or one
// that is drawn.
func (s *split) seat(x *exchange) {
	if s.Cookie == "" || x.visitor == nil {
		x.place = 1 + s.draw()
		return
	}
	if place, ok := parsePlace(x.visitor.cookie(s.Cookie)); ok {
		x.place = 1 + place
		return
	}
	x.place, x.tell = 1+s.draw(), s.Cookie
}

// draw returns a place. Each hundred draws have every place once, in an order
// of their own: the share is right from the first hundred requests on, and yet
// no rhythm among the requests finds itself on one side.
func (s *split) draw() int {
	n := s.draws.Add(1) - 1
	h := mix(s.seed + n/places)
	return int((n%places*strides[h%uint64(len(strides))] + h>>32) % places)
}

// strides have no factor in common with 100, so that multiplying by one permutes
// the places. They are those that spread best: among 1.9 times as many draws in a
// row as one in the share is expected in, there is one. With 1, say, the first
// eighty might be on one side.
var strides = [...]uint64{27, 29, 37, 39, 41, 59, 61, 63, 71, 73}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// parsePlace reads a cookie's value in the one form that the router writes.
func parsePlace(value string) (int, bool) {
	place, err := strconv.Atoi(value)
	return place, err == nil && place >= 0 && place < places && strconv.Itoa(place) == value
}

// placeCookie returns the Set-Cookie line that tells the client its place, or
// "". It lasts as long as the browser's session.
func (x *exchange) placeCookie(secure bool) string {
	if x.tell == "" {
		return ""
	}
	line := x.tell + "=" + strconv.Itoa(x.place-1) + "; Path=/; HttpOnly; SameSite=Lax"
	if secure {
		line += "; Secure"
	}
	return line
}

// header implements visitor.
func (c *call) header(name string) string { return c.req.Header.Get(name) }

// cookie implements visitor: the first of the name that is a place.
func (c *call) cookie(name string) string {
	for _, k := range c.req.CookiesNamed(name) {
		if _, ok := parsePlace(k.Value); ok {
			return k.Value
		}
	}
	return ""
}

// tellPlace adds the cookie to the head of the answer.
func (c *call) tellPlace(h http.Header) {
	if line := c.placeCookie(c.req.TLS != nil); line != "" {
		h["Set-Cookie"] = append(slices.Clip(h["Set-Cookie"]), line)
	}
}

// checkSplit refuses a split that cannot be meant; its names go into heads.
func checkSplit(service string, s *model.Split) error {
	switch {
	case s == nil:
		return nil
	case s.Weight < 0 || s.Weight > places:
		return model.Errorf(model.Invalid, "cannot use table: service %q gives %d per cent of its requests to release %d", service, s.Weight, s.Release)
	case s.Cookie != "" && !isToken(s.Cookie), s.Header != "" && !isToken(s.Header):
		return model.Errorf(model.Invalid, "cannot use table: service %q has the cookie %q and the header %q, which are no names", service, s.Cookie, s.Header)
	}
	return nil
}

// isToken reports whether s is a token (RFC 9110, 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
