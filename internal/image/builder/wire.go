package builder

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"kiln/internal/lock"
	"kiln/internal/model"
)

// Request says what to build.
type Request struct {
	Containerfile string            `json:"containerfile"`      // as buildcontext.Find returned it
	Target        string            `json:"target,omitempty"`   // the stage to stop at; "": the last
	Args          map[string]string `json:"args,omitempty"`     // for ARG
	Name          string            `json:"name,omitempty"`     // what FROM may call the result; may be empty
	NoCache       bool              `json:"no_cache,omitempty"` // run every step again
	Fresh         bool              `json:"fresh,omitempty"`    // from nothing, in a place of its own
	Network       string            `json:"network,omitempty"`  // what it reaches; "": open
	Lock          *Lock             `json:"lock,omitempty"`     // nil: nothing is locked
}

// Result is a built image.
type Result struct {
	Digest  model.Digest   `json:"digest"`
	Parents []model.Parent `json:"parents,omitempty"` // the images it was built on
	Size    int64          `json:"size"`              // bytes as stored
	Locked  []lock.Entry   `json:"locked,omitempty"`  // what it was made from, where there is a lock
	Inputs  model.Digest   `json:"inputs,omitempty"`  // of the record that keeps the bytes of it; "": there are none
}

// Status says where a step is.
type Status string

// The statuses of a step.
const (
	Started Status = "started"
	Done    Status = "done"
	Cached  Status = "cached" // nothing had to be done
	Failed  Status = "error"
	Output  Status = "log"  // the step wrote Log
	Note    Status = "note" // Log says something about the build as a whole
)

// Event is progress. Steps of a Containerfile are counted by stage; Step is 0
// for what the builder does around them.
type Event struct {
	Step     int    `json:"step,omitempty"`
	Total    int    `json:"total,omitempty"`
	Stage    string `json:"stage,omitempty"` // its name, where a Containerfile has several
	Name     string `json:"name,omitempty"`  // the instruction
	Status   Status `json:"status"`
	Log      string `json:"log,omitempty"`
	Duration int64  `json:"duration_ms,omitempty"`
}

// hello is the first line of every connection to the builder: exactly one field
// beside the id is set. After Session, the connection is the one that
// buildcontext.Serve speaks. After Build, the builder sends replies.
type hello struct {
	ID      string        `json:"id"` // joins the two connections of a build
	Session bool          `json:"session,omitempty"`
	Build   *Request      `json:"build,omitempty"`
	Cache   *cacheRequest `json:"cache,omitempty"`
}

// cacheRequest is about the build cache: the answer is one reply.
type cacheRequest struct {
	Remove []string `json:"remove,omitempty"` // ids of records; none: list them
}

// reply is one line from the builder. The last one is a result, a failure or, of
// what is asked about the cache, the only one.
type reply struct {
	Event   *Event         `json:"event,omitempty"`
	Result  *Result        `json:"result,omitempty"`
	Failure *failure       `json:"failure,omitempty"`
	Cache   []model.Object `json:"cache,omitempty"` // the answer to a cacheRequest that lists
	Done    bool           `json:"done,omitempty"`  // the answer to a cacheRequest
}

// failure is a model.Error on the wire.
type failure struct {
	Code    model.Code `json:"code"`
	Message string     `json:"message"`
	Hint    string     `json:"hint,omitempty"`
}

func failureOf(err error) *failure {
	return &failure{Code: model.CodeOf(err), Message: err.Error(), Hint: model.HintOf(err)}
}

func (f *failure) error() error {
	e := model.Errorf(f.Code, "%s", f.Message)
	if f.Hint == "" {
		return e
	}
	return e.WithHint("%s", f.Hint)
}

// maxLine bounds a line of the protocol: a request carries a lock file, a result
// what was locked.
const maxLine = 64 << 20

// lines writes JSON values, one a line, from several goroutines.
type lines struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lines) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(b, '\n'))
	return err
}

// maxCache bounds the answer about the build cache.
const maxCache = 64 << 20

// receive reads one line into v.
func receive(r *bufio.Reader, v any) error { return receiveAtMost(r, v, maxLine) }

func receiveAtMost(r *bufio.Reader, v any, most int) error {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return json.Unmarshal(line, v)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if len(line) > most {
			return errors.New("a line is too long")
		}
	}
}
