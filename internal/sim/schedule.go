package sim

import (
	"container/heap"
	"context"
	"errors"
	"iter"
	"time"
)

// schedule is simulated time. Tasks are coroutines: one runs at a time, in an
// order that depends on nothing but the times that were asked for.
type schedule struct {
	now     time.Duration // since the beginning of the run
	queue   queue
	order   uint64
	current *task
}

// task is a function that may wait in the midst of its work.
type task struct {
	resume func() (time.Duration, bool)
	end    func()
	yield  func(time.Duration) bool
	killed bool
	done   func()
	limits []limit
}

// limit is the simulated time at which a context of the task ends.
type limit struct {
	real time.Time
	at   time.Duration
}

type entry struct {
	at    time.Duration
	order uint64
	task  *task
	call  func()
}

type queue []entry

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any) {
	e, ok := x.(entry)
	if ok {
		*q = append(*q, e)
	}
}

func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = entry{}
	*q = (*q)[:len(*q)-1]
	return last
}

func (s *schedule) push(at time.Duration, t *task, call func()) {
	s.order++
	heap.Push(&s.queue, entry{at: max(at, s.now), order: s.order, task: t, call: call})
}

// after calls f when d has passed.
func (s *schedule) after(d time.Duration, f func()) { s.push(s.now+d, nil, f) }

// spawn starts f as a task after d; done is called when it has returned by
// itself.
func (s *schedule) spawn(d time.Duration, f, done func()) *task {
	t := &task{done: done}
	t.resume, t.end = iter.Pull(func(yield func(time.Duration) bool) {
		t.yield = yield
		f()
	})
	s.push(s.now+d, t, nil)
	return t
}

// kill lets the task return at its next wait without having waited, and
// returns when it has.
func (s *schedule) kill(t *task) {
	before := s.current
	s.current, t.killed = t, true
	t.end()
	s.current = before
}

var errKilled = errors.New("the process was killed")

// wait lets d pass. Outside of a task it returns at once: what calls there
// does not wait for anybody.
func (s *schedule) wait(ctx context.Context, d time.Duration) error {
	t := s.current
	if t == nil || t.killed {
		return errKilled
	}
	until, inTime := s.now+d, true
	if end, limited := t.endOf(ctx, s.now); limited && end < until || d < 0 {
		until, inTime = max(end, s.now), false
	}
	if !t.yield(until) {
		return errKilled
	}
	if !inTime {
		return context.DeadlineExceeded
	}
	return nil
}

// endOf translates the end of a context, which is in real time, to simulated
// time: the time left is a whole number of seconds when it is first asked for.
func (t *task) endOf(ctx context.Context, now time.Duration) (time.Duration, bool) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return 0, false
	}
	for _, l := range t.limits {
		if l.real.Equal(deadline) {
			return l.at, true
		}
	}
	at := now + time.Until(deadline).Round(time.Second)
	t.limits = append(t.limits, limit{deadline, at})
	return at, true
}

// next returns when the next entry is due.
func (s *schedule) next() (time.Duration, bool) {
	if len(s.queue) == 0 {
		return 0, false
	}
	return s.queue[0].at, true
}

// run carries out the entry that is due next.
func (s *schedule) run() {
	e, ok := heap.Pop(&s.queue).(entry)
	if !ok {
		return
	}
	s.now = max(s.now, e.at)
	if e.call != nil {
		e.call()
		return
	}
	if e.task.killed {
		return
	}
	s.current = e.task
	until, more := e.task.resume()
	s.current = nil
	switch {
	case more:
		s.push(until, e.task, nil)
	case e.task.done != nil:
		e.task.done()
	}
}

// close ends every task that is left.
func (s *schedule) close() {
	for len(s.queue) > 0 {
		e, ok := heap.Pop(&s.queue).(entry)
		if ok && e.task != nil && !e.task.killed {
			s.kill(e.task)
		}
	}
}
