package registry

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/sirupsen/logrus"
)

// logTo has what distribution says, which goes to logrus's standard logger, said
// by log. There is one such logger in a process.
func logTo(log *slog.Logger) {
	hooked.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.SetLevel(logrus.WarnLevel)
		logrus.AddHook(hook{log})
	})
}

var hooked sync.Once

// hook passes records on.
type hook struct{ log *slog.Logger }

// Levels implements logrus.Hook.
func (h hook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook.
func (h hook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug // clients' doings, as a rule, and answers such as 404 are
	if e.Level <= logrus.ErrorLevel && e.Message != "response completed with error" {
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "registry", "says", e.Message)
	return nil
}
