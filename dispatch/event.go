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
	ev.ID, ev.Time = lambent.NewID(), time.Now()
	ev.Namespace, ev.Function, ev.Revision = p.rev.Namespace, p.rev.Function, p.rev.ID
	p.d.opt.Event(ev)
}

// parted tells of the end of inst; why is "" when it ended by itself.
func (p *pool) parted(inst *instance, why lambent.Reason, exit lambent.Exit) {
	switch why {
	case given:
	case "":
		p.event(lambent.SystemEvent{Kind: lambent.EventInstanceExited, Instance: inst.ID(), Exit: &exit, Text: exit.String()})
	default:
		p.event(lambent.SystemEvent{Kind: lambent.EventInstanceStopped, Instance: inst.ID(), Reason: why, Text: texts[why]})
	}
}

// failed tells of a failed start.
func (p *pool) failed(e *lambent.Error) {
	p.d.opt.Logger.Warn("start failed", "revision", p.key, "err", e)
	p.event(lambent.SystemEvent{Kind: lambent.EventStartFailed, Reason: lambent.Reason(e.Code), Text: e.Error()})
}
