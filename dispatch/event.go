package dispatch

import (
	"time"

	"lambent"
)

// texts say the reasons of a stop for people.
var texts = map[lambent.Reason]string{
	lambent.ReasonIdle:     "it was idle for its keep-alive time",
	lambent.ReasonRetired:  "its revision gets no new traffic",
	lambent.ReasonStale:    "a secret that it was started with has changed",
	lambent.ReasonEvicted:  "another revision needed its place on the node",
	lambent.ReasonCut:      "a request timed out or its client left, and it may still have been working on it",
	lambent.ReasonUsed:     "its function asks for a new one for each request",
	lambent.ReasonShutdown: "the node is stopping",
}

// given is the reason of leaving an instance to another process, which tells of its end.
const given lambent.Reason = "given"

func (p *pool) event(ev lambent.SystemEvent) {
	if p.d.opt.Event == nil {
		return
	}
	ev.ID, ev.Time = lambent.NewID(), time.Now()
	ev.Namespace, ev.Function, ev.Revision = p.rev.Namespace, p.rev.Function, p.rev.ID
	p.d.opt.Event(ev)
}

// parted tells of the end of inst, which is out of the pool.
func (p *pool) parted(inst *instance) {
	p.mu.Lock()
	why := inst.why
	p.mu.Unlock()
	switch why {
	case given:
	case "":
		exit := inst.Exit()
		p.event(lambent.SystemEvent{Kind: lambent.EventInstanceExited, Instance: inst.ID(), Exit: &exit, Text: exit.String()})
	default:
		p.event(lambent.SystemEvent{Kind: lambent.EventInstanceStopped, Instance: inst.ID(), Reason: why, Text: texts[why]})
	}
}

// failed tells of a failed start.
func (p *pool) failed(err error) {
	p.d.opt.Logger.Warn("start failed", "revision", p.key, "err", err)
	e := lambent.ErrorOf(err)
	p.event(lambent.SystemEvent{Kind: lambent.EventStartFailed, Reason: lambent.Reason(e.Code), Text: e.Error()})
}
