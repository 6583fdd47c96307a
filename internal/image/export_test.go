package image

import (
	"net/http"
	"time"
)

// Stalling is a transport whose answers may be silent for so long.
func Stalling(next http.RoundTripper, after time.Duration) http.RoundTripper {
	return stalls{next, after}
}
