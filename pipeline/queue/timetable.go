package queue

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Rate is a number of messages in a unit of time: "100/m". "" is no limit.
type Rate string

// PerSecond returns the rate, or 0 for no limit.
func (r Rate) PerSecond() (float64, error) {
	if r == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(string(r), "/")
	n, err := strconv.Atoi(number)
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
	if err != nil || n < 1 || n > 1_000_000_000 || seconds == 0 {
		return 0, fmt.Errorf("%.40q is no rate, expected a number and a unit such as \"100/m\" (s, m, h or d)", string(r))
	}
	return float64(n) / seconds, nil
}

// hours are a part of the day in which a destination may be tried, in minutes since midnight; to may be
// smaller than from, for hours over midnight.
type hours struct{ from, to int }

func parseHours(s string) (hours, error) {
	from, to, found := strings.Cut(s, "-")
	a, errA := time.Parse("15:04", strings.TrimSpace(from))
	b, errB := time.Parse("15:04", strings.TrimSpace(to))
	if !found || errA != nil || errB != nil || a.Equal(b) {
		return hours{}, fmt.Errorf("%.40q is no window of hours, expected one such as \"22:00-06:00\"", s)
	}
	return hours{a.Hour()*60 + a.Minute(), b.Hour()*60 + b.Minute()}, nil
}

func (h hours) contain(minute int) bool {
	if h.from < h.to {
		return minute >= h.from && minute < h.to
	}
	return minute >= h.from || minute < h.to
}

// timetable says when mail of a pipeline for a destination is tried, and how fast.
type timetable struct {
	retry, retryMax        time.Duration
	warnAfter, giveUpAfter time.Duration // warnAfter 0: off
	connections            int           // at once to one next hop
	rate                   float64       // messages a second to one next hop, or 0
	windows                []hours
}

// timetable returns the settings of the moment; domain is "" for what stays here. What can't be read was
// refused when the configuration was, so it is left out here.
func (q *Queue) timetable(pipeline, domain string) timetable {
	c := DefaultConfig()
	if q.Config != nil {
		c = q.Config(pipeline)
	}
	t := timetable{
		retry: c.Retry.Std(), retryMax: c.RetryMax.Std(), warnAfter: c.WarnAfter.Std(), giveUpAfter: c.GiveUpAfter.Std(),
		connections: c.Connections,
	}
	t.rate, _ = c.Rate.PerSecond()
	if domain != "" && q.Destination != nil {
		t.override(q.Destination(pipeline, domain))
	}
	if t.connections < 1 {
		t.connections = DefaultConfig().Connections
	}
	if q.Sources != nil && t.rate > 0 {
		t.rate *= float64(max(q.Sources(pipeline), 1))
	}
	return t
}

func (t *timetable) override(d Destination) {
	for _, set := range []struct {
		to    *time.Duration
		value time.Duration
	}{{&t.retry, d.Retry.Std()}, {&t.retryMax, d.RetryMax.Std()}, {&t.warnAfter, d.WarnAfter.Std()}, {&t.giveUpAfter, d.GiveUpAfter.Std()}} {
		if set.value != 0 {
			*set.to = set.value
		}
	}
	t.retryMax = max(t.retryMax, t.retry)
	if d.Connections != 0 {
		t.connections = d.Connections
	}
	if rate, err := d.Rate.PerSecond(); err == nil && rate > 0 {
		t.rate = rate
	}
	for _, w := range d.Windows {
		if h, err := parseHours(w); err == nil {
			t.windows = append(t.windows, h)
		}
	}
}

// wait returns how long to wait after the attempt of that number (1 is the
// first), before jitter.
func (t *timetable) wait(attempts int) time.Duration {
	d := t.retry
	for range min(attempts-1, 64) {
		if d >= t.retryMax {
			break
		}
		d += d / 2
	}
	return min(d, t.retryMax)
}

// open returns the first moment from at on in which the destination may be tried.
func (t *timetable) open(at time.Time) time.Time {
	if t.within(at) {
		return at
	}
	at = at.Truncate(time.Minute)
	for range 2 * 24 * 60 { // days of a changing clock are longer
		if at = at.Add(time.Minute); t.within(at) {
			break
		}
	}
	return at
}

// turn returns when somebody has to look at a recipient again that is not tried before at: in the destination's hours, or before,
// when it gets late, so that its sender is told in time. It can't be sent then: site.may asks for the hours too.
func (t *timetable) turn(at, began time.Time, warned bool) time.Time {
	open := t.open(at)
	late := later(began.Add(t.warnAfter), at)
	if t.warnAfter > 0 && !warned && late.Before(open) {
		return late
	}
	return open
}

func (t *timetable) within(at time.Time) bool {
	if len(t.windows) == 0 {
		return true
	}
	local := at.Local()
	for _, h := range t.windows {
		if h.contain(local.Hour()*60 + local.Minute()) {
			return true
		}
	}
	return false
}

// spread moves a wait within 10 percent (RULES D1); luck is in [-1, 1).
func spread(d time.Duration, luck float64) time.Duration {
	return d + time.Duration(luck*0.1*float64(d))
}

// soon is the wait after a failure of our own store.
func soon(attempts int) time.Duration {
	const first, most = time.Second, 5 * time.Minute
	d := first << min(max(attempts-1, 0), 20)
	return min(max(d, first), most)
}
