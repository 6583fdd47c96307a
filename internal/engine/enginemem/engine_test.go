package enginemem_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/internal/engine"
	"kiln/internal/engine/enginemem"
	"kiln/internal/engine/enginetest"
	"kiln/internal/model"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(*testing.T) enginetest.Subject {
		const digest = model.Digest("sha256:aaaa")
		world := enginemem.NewWorld(1 << 30)
		world.AddImage(digest, enginemem.Image{Program: program})
		return enginetest.Subject{
			Engine: enginemem.New(world, enginemem.Options{}),
			Image:  digest,
			Reopen: func(*testing.T) engine.Engine { return enginemem.New(world, enginemem.Options{}) },
		}
	})
}

// program does in memory what the program of the suite does.
func program(id model.ServerID, t model.Template) (enginemem.Program, bool) {
	if len(t.Entrypoint) > 0 {
		return enginemem.Program{}, false
	}
	p := enginemem.Program{
		StartAfter: 20 * time.Millisecond,
		Signal: func(signal string) (int, time.Duration, bool) {
			codes := map[string]int{"SIGTERM": 25, "SIGQUIT": 13, "SIGUSR1": 20}
			return codes[signal], 10 * time.Millisecond, true
		},
		Exec: func(command []string) (engine.ExecResult, time.Duration, bool) { return execute(id, t, command) },
	}
	argument := func() int {
		n, err := strconv.Atoi(t.Command[1])
		if err != nil {
			panic(err)
		}
		return n
	}
	switch t.Command[0] {
	case "exit":
		p.EndAfter, p.Code = time.Millisecond, argument()
	case "ignore-term":
		p.Signal = func(string) (int, time.Duration, bool) { return 0, 0, false }
		p.Lines = []engine.LogLine{{Stream: "stdout", Text: "ignoring signals"}}
	case "lines":
		p.EndAfter, p.Lines = time.Millisecond, lines(argument())
	case "spew":
		for i := range argument() {
			for _, stream := range []string{"stdout", "stderr"} {
				p.Lines = append(p.Lines, engine.LogLine{Stream: stream, Text: fmt.Sprintf("%s line %d", stream, i+1)})
			}
		}
	}
	return p, true
}

func lines(n int) (written []engine.LogLine) {
	for i := range n {
		written = append(written, engine.LogLine{Stream: "stdout", Text: fmt.Sprintf("line %d", i+1)})
	}
	return written
}

// execute is one run of the program inside a server.
func execute(id model.ServerID, t model.Template, command []string) (engine.ExecResult, time.Duration, bool) {
	if !strings.HasSuffix(command[0], "program") || strings.Contains(command[0], "no-such") {
		return engine.ExecResult{}, 0, false
	}
	switch command[1] {
	case "ignore-term":
		return engine.ExecResult{}, -1, true
	case "exit":
		n, err := strconv.Atoi(command[2])
		return engine.ExecResult{Code: n}, 0, err == nil
	case "lines":
		n, err := strconv.Atoi(command[2])
		var out strings.Builder
		for _, line := range lines(n) {
			out.WriteString(line.Text + "\n")
		}
		return engine.ExecResult{Output: []byte(out.String())}, 0, err == nil
	case "env":
		return engine.ExecResult{Output: []byte(t.Env[command[2]] + "\n")}, 0, true
	case "hostname":
		return engine.ExecResult{Output: []byte(id)}, 0, true
	case "write":
		if strings.HasPrefix(command[2], "/tmp/") {
			return engine.ExecResult{}, 0, true
		}
		return engine.ExecResult{Code: 1, Output: []byte("read-only file system\n")}, 0, true
	}
	return engine.ExecResult{Code: 1}, 0, true
}
