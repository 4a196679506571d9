package firstboot

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// roomPause is between looks at a file system without room.
const roomPause = time.Second

// AwaitRoom waits until the file system of a folder has so many bytes free for root, and says once that it waits. The error is
// that of statfs(2), or that ctx ended.
func AwaitRoom(ctx context.Context, folder string, bytes int64, say func(message string)) error {
	free := func() (int64, error) {
		var st unix.Statfs_t
		if err := unix.Statfs(folder, &st); err != nil {
			return 0, fmt.Errorf("cannot see how much room %s has: %w", folder, err)
		}
		return int64(st.Bfree) * st.Bsize, nil
	}
	return awaitRoom(ctx, free, bytes, roomPause, func(have int64) {
		say(fmt.Sprintf("waiting for room: %s has %d MiB free, and %d MiB are needed to start: delete what isn't needed there", folder, have>>20, bytes>>20))
	})
}

func awaitRoom(ctx context.Context, free func() (int64, error), need int64, pause time.Duration, waiting func(have int64)) error {
	for said := false; ; {
		have, err := free()
		if err != nil || have >= need {
			return err
		}
		if !said {
			waiting(have)
			said = true
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}
