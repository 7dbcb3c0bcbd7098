"""The small painter inside Danqing: it draws shapes from Chinese captions, 64 x 64 pixels, without a network.

``tools/train_mini`` made it from nothing with the recipes of ``danqing train``; it lies in the EasyNLP layout, as the
trainer wrote it.
"""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"

DEMO_PROMPTS = (
    "红色的圆形", "蓝色背景上有一颗大的黄色星星", "左边红色方块，右边绿色圆圈", "白色背景，中间一个紫色的心形",
    "黑色背景上，左上角有一个小的黄色三角形", "黄色背景，上方是蓝色的菱形，下方是粉色的十字", "粉色背景右边有一个黑色的月牙",
    "绿色背景上有一个白色的大方形", "天蓝色背景，左边红色爱心，右边白色月亮",
)
"""What ``danqing demo`` draws."""
