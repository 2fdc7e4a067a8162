"""A judge model compares what the model wrote before training with what it writes after: prompts, verdicts, protocol.

    prepare   prompts ─> frozen with their tokens; the judge's server is asked once
    attempt   answers of the model as it came ─> ... ─> answers of the exported model
              ─> each pair in both orders to the judge, while rank 0 uploads the model ─> wins, ties, losses

Without torch; the model is asked in `task_answers`.
"""
