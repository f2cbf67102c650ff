"""A client made of PyAV: `publish CLIP URL`, again and again until it is stopped, or `play URL N`, until
N frames of each stream are decoded; that prints what came as JSON."""

import json
import sys
import time

import av


def publish(clip, url):
    begin, offset, tracks = time.monotonic(), 0, None
    with av.open(url, "w", format="flv") as out:
        while True:
            end = offset
            with av.open(clip) as source:
                if tracks is None:
                    # not every decoder has an encoder of its name
                    tracks = [
                        out.add_stream_from_template(stream, opaque=True)
                        for stream in source.streams
                    ]
                for packet in source.demux():
                    # the last one of each stream is empty
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    end = max(end, packet.dts + max(packet.duration or 0, 1))
                    # FLV's times are milliseconds; at twice its pace
                    due = begin + packet.dts / 2000
                    time.sleep(max(0, due - time.monotonic()))
                    packet.stream = tracks[packet.stream.index]
                    out.mux(packet)
            offset = end


def play(url, frames):
    with av.open(url, timeout=(30, 30)) as source:
        came = [
            {"type": s.type, "codec": s.codec_context.name, "frames": 0, "begins": None}
            for s in source.streams
        ]
        for packet in source.demux():
            # FFmpeg makes one without a body of the description of channels
            if packet.size == 0:
                continue
            track = came[packet.stream.index]
            if track["begins"] is None:
                track["begins"] = "key" if packet.is_keyframe else "between"
            track["frames"] += len(packet.decode())
            if all(track["frames"] >= frames for track in came):
                break
    print(json.dumps(came))


if sys.argv[1] == "publish":
    publish(*sys.argv[2:])
else:
    play(sys.argv[2], int(sys.argv[3]))
