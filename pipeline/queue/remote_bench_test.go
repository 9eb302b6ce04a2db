package queue_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluicemail/sluice/pipeline"
	"github.com/sluicemail/sluice/pipeline/queue"
	"github.com/sluicemail/sluice/storage"
)

// quick is a courier that takes everything at once.
type quick struct{}

func (quick) NextHop(_ context.Context, domain, _ string) (pipeline.NextHop, error) {
	return pipeline.NextHop{Key: domain}, nil
}

func (quick) Send(ctx context.Context, _ pipeline.NextHop, p *pipeline.Parcel) (pipeline.Sent, func(), error) {
	c, err := p.Open(ctx)
	if err != nil {
		return pipeline.Sent{}, nil, err
	}
	_, err = c.ReadAt(make([]byte, c.Size()), 0)
	_ = c.Close()
	return took(p), func() {}, err
}

// BenchmarkCommitAndSend is what the queue costs for mail that leaves: 16 peers commit, to one and to a thousand
// destinations, on a disk.
func BenchmarkCommitAndSend(b *testing.B) {
	for _, domains := range []int{1, 1000} {
		b.Run(fmt.Sprint(domains), func(b *testing.B) {
			store, err := storage.Open(context.Background(), storage.Options{Dir: b.TempDir(), Logger: quiet})
			if err != nil {
				b.Fatal(err)
			}
			o := options(store)
			o.Courier, o.Tick = quick{}, time.Second
			q := queue.New(o)
			if err := q.Start(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			var wg sync.WaitGroup
			for peer := range 16 {
				wg.Go(func() {
					for i := peer; i < b.N; i += 16 {
						m, err := message(store, "x", to(fmt.Sprintf("a@d%d.example", i%domains)))
						if err == nil {
							err = q.Commit(context.Background(), m)
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			eventually(b, "an empty queue", func() bool { in, more := q.Depth(); return in == 0 && !more })
			b.StopTimer()
			if err := q.Stop(context.Background()); err != nil {
				b.Error(err)
			}
			if err := store.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}
